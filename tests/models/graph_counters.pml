/*
 * What a sum of per-context counters is worth (T002c, R7): BasicGraphLock::readers, ::remove_context and
 * ShardedCount of block/. Each context writes only its own signed cell; a reader may lock in one context and
 * unlock in another, so a sum that is taken cell by cell can be negative, or zero while somebody is inside.
 *
 *   migrating  a reader that locks in context A and unlocks in B
 *   staying    a reader that does both in B
 *   writer     sums before the flag is up and again after it, summing from a cell it chooses
 *   remover    deletes context A, whose cell then may hold a reader that has moved away
 *
 * Checked, for sums taken with the flag visible: never negative; zero means that nobody is inside.
 *
 * Bad twins, each failing by assertion
 *   BUG_EARLY_NOT_NEGATIVE   a sum taken before the flag is asserted not to be negative
 *   BUG_EARLY_ZERO           a zero taken before the flag is believed to mean that a reader which was inside
 *                            all the while was not there
 *   BUG_DROP_CELL            a dead context's cell is not kept in the orphans' total
 */

#define A 0
#define B 1

short cell[2];
short orphans;
bool dead;                /* context A is off the list */
bool a_is_done;           /* no coroutine of context A is in the block layer */
bool list_lock;
bool writing;
byte inside;              /* ghost: readers that passed the flag */
byte stay;                /* ghost: odd while `staying` is inside, another value each time */

inline take_list()    { atomic { !list_lock -> list_lock = true } }
inline release_list() { list_lock = false }

/* A reader that finds the flag up goes away; parking is graph_lock.pml's. */
active proctype migrating() {
	byte round = 0;
	do
	:: round < 2 ->
		cell[A]++;
		if
		:: writing -> cell[A]--
		:: atomic { !writing -> inside++ }
			/* move_to(B); the second time for good */
			a_is_done = (round == 1);
			inside--;
			cell[B]--
		fi;
		round++
	:: else -> break
	od;
	a_is_done = true
}

active proctype staying() {
	byte round = 0;
	do
	:: round < 2 ->
		cell[B]++;
		if
		:: writing
		:: atomic { !writing -> inside++; stay++ }
			atomic { inside--; stay++ }
		fi;
		cell[B]--;
		round++
	:: else -> break
	od
}

active proctype remover() {
	a_is_done;
	take_list();
	dead = true;
#ifndef BUG_DROP_CELL
	orphans = orphans + cell[A];
#endif
	release_list()
}

inline add_live(c) {
	if
	:: c == A && dead
	:: else -> sum = sum + cell[c]
	fi
}

inline take_sum() {
	take_list();
	sum = orphans;
	if
	:: true -> add_live(A); add_live(B)
	:: true -> add_live(B); add_live(A)
	fi;
	release_list()
}

active proctype writer() {
	short sum = 0;
	byte round = 0;
#ifdef BUG_EARLY_ZERO
	byte before;
#endif
	do
	:: round < 2 ->
#ifdef BUG_EARLY_ZERO
		before = stay;
#endif
		take_sum();
#ifdef BUG_EARLY_NOT_NEGATIVE
		assert(sum >= 0);
#endif
#ifdef BUG_EARLY_ZERO
		assert(sum != 0 || before % 2 == 0 || stay != before);
#endif
		writing = true;
		take_sum();
		assert(sum >= 0);
		assert(sum != 0 || inside == 0);
		writing = false;
		round++
	:: else -> break
	od
}
