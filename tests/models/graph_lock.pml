/*
 * The graph lock (T002a): BasicGraphLock::read_lock, ::read_unlock, ::write_lock, ::write_unlock and
 * ::lower_flag of block/graph_lock.cc, with MainWait::until and ::kick of util/main_wait.h.
 *
 *   writer     main; goes through two write sections, polling while it waits. One of its polls runs a handler
 *              that reads the graph without a coroutine of its own, on top of main's stack
 *   reader     a coroutine on an iothread of its own; goes through two read sections
 *
 * Checked
 *   nobody reads while the writer is inside (assertion)
 *   everybody comes to an end: no reader parked for ever, no writer asleep for ever (invalid end state)
 *
 * A reader that parks need not kick: it does so under the list lock with the flag up, and the writer lowers the
 * flag under that lock before it looks again.
 *
 * Variants that must pass because a writer that retreats wakes who parked meanwhile
 *   NESTED                 a reader locks twice (the code aborts: nothing else would warn of the twin below)
 *   TRANSITIVE             reader 0 takes a mutex and then the graph, reader 1 the graph and then the mutex
 *
 * Bad twins, each failing by deadlock
 *   BUG_FLAG_WHILE_POLLING         D1: the flag is up while the writer polls; the handler waits for it, on top of
 *                                  the only stack that could lower it
 *   NESTED, BUG_SILENT_RETREAT     D13: the writer waits for the outer lock, nobody wakes the inner
 *   TRANSITIVE, BUG_SILENT_RETREAT D14: the same through another's mutex
 *   BUG_KICK_IF_FLAG               D15: unlock kicks only if it sees the flag, which is down while the writer sleeps
 *   BUG_NO_RECHECK                 parks without another look at the flag under the list lock
 * and by assertion
 *   BUG_NO_SECOND_LOOK             the writer goes in by the sum it took before the flag was up
 */

#define READERS 2
#define SECTIONS 2
#define WRITES 2

bool writing;
byte cell[READERS];
bool list_lock;
bool parked[READERS];
bool woken[READERS];
bool wake[READERS];       /* main: whom it took off the list */

/* MainWait */
byte waiters;
bool kicked;              /* the context's wake-up: stays until a poll takes it */

byte reading;             /* ghosts */
bool changing;

bool handler_ran;
#ifdef TRANSITIVE
bool co_mutex;
#endif

inline take_list()    { atomic { !list_lock -> list_lock = true } }
inline release_list() { list_lock = false }
inline kick() {
	if
	:: waiters > 0 -> kicked = true
	:: else
	fi
}

inline read_lock(r) {
	do
	:: cell[r]++;
	   if
	   :: !writing -> break
	   :: else
	   fi;
	   take_list();
#ifndef BUG_NO_RECHECK
	   if
	   :: !writing -> release_list(); break
	   :: else
	   fi;
#endif
	   cell[r]--;
	   parked[r] = true;
	   release_list();
	   atomic { woken[r] -> woken[r] = false }
	od
}

inline read_unlock(r) {
	cell[r]--;
#ifdef BUG_KICK_IF_FLAG
	if
	:: writing -> kick()
	:: else
	fi
#else
	kick()
#endif
}

inline enter_section() { atomic { reading++; assert(!changing) } }
inline leave_section() { reading-- }

proctype reader(byte r) {
	byte round = 0;
	do
	:: round < SECTIONS ->
#ifdef TRANSITIVE
		if
		:: r == 0 -> atomic { !co_mutex -> co_mutex = true }
		:: else
		fi;
#endif
		read_lock(r);
		enter_section();
#ifdef NESTED
		read_lock(r);
		read_unlock(r);
#endif
#ifdef TRANSITIVE
		if
		:: r == 1 -> atomic { !co_mutex -> co_mutex = true }; co_mutex = false
		:: else
		fi;
#endif
		leave_section();
		read_unlock(r);
#ifdef TRANSITIVE
		if
		:: r == 0 -> co_mutex = false
		:: else
		fi;
#endif
		round++
	:: else -> break
	od
}

inline count_readers(sum) {
	take_list();
	sum = cell[0];
	sum = sum + cell[1];
	release_list()
}

/* Lowers the flag and takes the list in one step, then wakes without the lock. */
inline lower_flag() {
	take_list();
	writing = false;
	wake[0] = parked[0]; parked[0] = false;
	wake[1] = parked[1]; parked[1] = false;
	release_list();
	if
	:: wake[0] -> woken[0] = true
	:: else
	fi;
	if
	:: wake[1] -> woken[1] = true
	:: else
	fi
}

inline retreat() {
#ifdef BUG_SILENT_RETREAT
	take_list();
	writing = false;
	release_list()
#else
	lower_flag()
#endif
}

inline poll() {
	if
	:: kicked -> kicked = false
	:: !handler_ran ->
		!writing;             /* no coroutine: there is no stack to leave */
		assert(!changing);
		handler_ran = true
	fi
}

inline until_no_readers(sum) {
	waiters++;
	count_readers(sum);
	do
	:: sum != 0 -> poll(); count_readers(sum)
	:: else -> break
	od;
	waiters--
}

active proctype writer() {
	byte round = 0, sum = 0;
	atomic { run reader(0); run reader(1) }
	do
	:: round < WRITES ->
		do
		:: true ->
#ifdef BUG_FLAG_WHILE_POLLING
			writing = true;
			until_no_readers(sum);
			break
#else
			until_no_readers(sum);
			writing = true;
#ifdef BUG_NO_SECOND_LOOK
			break;
#endif
			count_readers(sum);
			if
			:: sum == 0 -> break
			:: else
			fi;
			retreat()
#endif
		od;
		atomic { changing = true; assert(reading == 0) }
		changing = false;
		lower_flag();
		round++
	:: else -> break
	od
}
