/*
 * One-shot event: util/one_shot_event.h (OneShotEvent, OneShotEventMutex).
 *
 * A setter calls set() once; a waiter calls wait() and, the moment it returns, destroys the event and
 * builds the next one at the same address. Two such rounds run here, so that a late wake-up of round
 * 1 may hit the sleeper of round 2, and a third party wakes the address for no reason.
 *
 * Checked
 *   I0     nobody touches the event between its destruction and the next construction: every access
 *          asserts that the event of *its* round is alive. FUTEX_WAKE uses the address alone.
 *   T000d  wait() does not return before set(): no wake-up is taken for an answer.
 *   no waiter sleeps for ever (invalid end state).
 *
 * Variants
 *   (none)                the futex build
 *   MUTEX                 the reference build: set() and wait() run entirely under a mutex inside
 *   IDIOM                 T000f: one long-lived event, the producer sets a condition and then the
 *                         event, the consumer does reset(), test, wait()
 *
 * Bad twins
 *   BUG_WORD_OUTSIDE_LOCK     T000c: mutex and condvar inside the event, but the word changes outside
 *                             the lock. The waiter sees SET without sleeping, returns, destroys; the
 *                             setter then locks a dead mutex.                 fails by assertion
 *   BUG_LOOK_AFTER_XCHG       set() reads the word once more before it wakes          by assertion
 *   BUG_NO_LOOP               a wake-up is believed without looking at the word       by assertion
 *   BUG_NO_CLAIM              set() wakes only if BUSY, and wait() sleeps without saying BUSY
 *                                                                                     by deadlock
 *   IDIOM BUG_NO_RESET        wait() without reset(): the stale SET lets it spin      by assertion
 *   IDIOM BUG_RESET_AFTER_TEST  test, reset(), wait(): reset() throws away the news   by deadlock
 */

mtype = { FREE, SET, BUSY, POISON };

mtype word = POISON;
bool sleeping;            /* the waiter is on the kernel's queue for this address */

#ifndef IDIOM

#define ROUNDS 2

byte alive;               /* which round's event lives at the address, 0 = none */
byte begun;               /* rounds whose setter may run */
bool was_set[ROUNDS + 1];

#define TOUCH(round) assert(alive == round)

#if defined(MUTEX) || defined(BUG_WORD_OUTSIDE_LOCK)
#define HAS_LOCK
bool locked;
#define LOCK(round)   atomic { TOUCH(round); !locked -> locked = true }
#define UNLOCK(round) atomic { TOUCH(round); locked = false }
#endif

/*
 * FUTEX_WAIT(word, BUSY): the kernel compares and queues in one step. When the time runs out the
 * waiter takes its announcement back, unless SET is there; then it waits once more.
 */
inline futex_wait(round) {
	atomic {
		TOUCH(round);
		if
		:: word == BUSY -> sleeping = true
		:: else
		fi
	}
	if
	:: !sleeping
	:: time_outs > 0 ->
		time_outs--;
		sleeping = false;
		atomic {
			TOUCH(round);
			if
			:: word == BUSY -> word = FREE
			:: else
			fi
		}
		claim(round)
	fi
}

/* compare-exchange FREE -> BUSY; it fails when the word is SET already */
inline claim(round) {
	atomic {
		TOUCH(round);
		if
		:: word == FREE -> word = BUSY
		:: else
		fi
	}
}

/* cond_wait: releases the lock and queues in one step. */
inline cond_wait(round) {
	atomic { TOUCH(round); locked = false; sleeping = true }
	!sleeping;
	LOCK(round)
}

#ifdef MUTEX
inline set(round) {
	LOCK(round);
	atomic { TOUCH(round); word = SET; was_set[round] = true }
	atomic { TOUCH(round); sleeping = false }
	UNLOCK(round)
}
inline wait(round) {
	LOCK(round);
	do
	:: word == SET -> break
	:: else -> cond_wait(round)
	od;
	UNLOCK(round)
}
#else
inline set(round) {
	atomic { TOUCH(round); old = word; word = SET; was_set[round] = true }
	if
	:: old == BUSY ->
#ifdef BUG_WORD_OUTSIDE_LOCK
		LOCK(round);
		atomic { TOUCH(round); sleeping = false }
		UNLOCK(round)
#else
#ifdef BUG_LOOK_AFTER_XCHG
		atomic { TOUCH(round); assert(word == SET) }
#endif
		sleeping = false        /* FUTEX_WAKE: an address, not an access */
#endif
	:: else
	fi
}
inline wait(round) {
#ifdef BUG_NO_CLAIM
	atomic {
		TOUCH(round);
		if
		:: word == FREE -> sleeping = true
		:: else
		fi
	}
	!sleeping
#else
	claim(round);
	do
	:: atomic { word == SET -> TOUCH(round); break }
	:: atomic { word != SET -> TOUCH(round) }
#ifdef BUG_WORD_OUTSIDE_LOCK
		LOCK(round);
		if
		:: word == BUSY -> cond_wait(round)
		:: else
		fi;
		UNLOCK(round)
#else
		futex_wait(round)
#ifdef BUG_NO_LOOP
		;
		break
#endif
#endif
	od
#endif
}
#endif

proctype setter(byte round) {
	mtype old;
	begun >= round;
	set(round)
}

active proctype waiter() {
	byte round = 1;
	byte time_outs = 1;
	run setter(1);
	run setter(2);
	do
	:: round <= ROUNDS ->
		atomic { word = FREE; alive = round; begun = round }
		wait(round);
		assert(was_set[round]);
		atomic { word = POISON; alive = 0 }
		round++
	:: else -> break
	od
}

/* A wake-up that belongs to someone who used this address before us, or a signal, or a time-out. */
active proctype stray() {
	sleeping = false;
	sleeping = false
}

#else /* IDIOM */

#define ITEMS 3

byte items;               /* the condition: work that is not yet consumed */
byte sets;                /* calls of set() so far */

active proctype producer() {
	byte made = 0;
	mtype old;
	do
	:: made < ITEMS ->
		items++;
		atomic { old = word; word = SET; sets++ }
		if
		:: old == BUSY -> sleeping = false
		:: else
		fi;
		made++
	:: else -> break
	od
}

active proctype consumer() {
	byte consumed = 0;
	byte returns = 0;
	byte seen;
	word = FREE;
	do
	:: consumed < ITEMS ->
#if !defined(BUG_NO_RESET) && !defined(BUG_RESET_AFTER_TEST)
		word = FREE;                             /* reset() */
#endif
		atomic { seen = items; items = 0 }       /* test, and take what is there */
#ifdef BUG_RESET_AFTER_TEST
		word = FREE;
#endif
		if
		:: seen > 0 -> consumed = consumed + seen
		:: else ->                               /* wait() */
			atomic {
				if
				:: word == FREE -> word = BUSY
				:: else
				fi
			}
			do
			:: word == SET -> break
			:: else ->
				atomic {
					if
					:: word == BUSY -> sleeping = true
					:: else
					fi
				}
				!sleeping
			od;
			returns++;
			assert(returns <= sets)          /* each return is paid for by one set() */
		fi
	:: else -> break
	od
}

#endif
