/*
 * Drain before lock (T002b): Graph::change of block/graph.cc against BlockBackend::request of
 * block/backend.cc, with RequestGate::enter, ::leave, ::shut and ::open of block/request_gate.cc.
 *
 *   request    a coroutine on an iothread of its own, through the gate, then the graph lock; two rounds
 *   main       changes the graph twice: shuts the gate, polls until nobody is inside, takes the write lock
 *
 *   query      a coroutine that reads the graph and is no request: no drain knows it
 *
 * The graph lock is simple here (graph_lock.pml has the whole of it): a reader waits while the flag is up.
 *
 * Checked: no request reads while main changes; a request that was let through the gate before it shut is
 * over when main changes, and none is inside while it is shut (assertions); everybody ends (invalid end state).
 *
 * Bad twins, each failing by deadlock
 *   BUG_LOCK_FIRST      D3: main drains inside the write section; a request inside the gate parks at the lock
 *   BUG_SILENT_RETREAT  a request that found the gate shut leaves without a kick: main slept on its count
 *   BUG_SILENT_LEAVE    the same for one that is done
 *   BUG_NO_RECHECK      a request parks at the gate without another look under the list's lock
 */

#define REQUESTS 2
#define ROUNDS 2
#define CHANGES 2

bool shut;
byte inside[REQUESTS];    /* a cell for each context */
bool gate_lock;
bool parked[REQUESTS];
bool woken[REQUESTS];
bool wake[REQUESTS];      /* main: whom it took off the list */

byte waiters;
bool kicked;

bool writing;
byte readers;
bool changing;            /* ghost */
bool drained;             /* ghost */

inline kick() {
	if
	:: waiters > 0 -> kicked = true
	:: else
	fi
}
inline take_gate()    { atomic { !gate_lock -> gate_lock = true } }
inline release_gate() { gate_lock = false }

inline enter(r) {
	do
	:: inside[r]++;
	   if
	   :: !shut -> break
	   :: else
	   fi;
	   take_gate();
#ifndef BUG_NO_RECHECK
	   if
	   :: !shut -> release_gate(); break
	   :: else
	   fi;
#endif
	   parked[r] = true;
	   release_gate();
	   inside[r]--;
#ifndef BUG_SILENT_RETREAT
	   kick();
#endif
	   atomic { woken[r] -> woken[r] = false }
	od
}

inline leave(r) {
	inside[r]--;
#ifndef BUG_SILENT_LEAVE
	kick()
#endif
}

proctype request(byte r) {
	byte round = 0;
	do
	:: round < ROUNDS ->
		enter(r);
		assert(!drained);
		atomic { !writing -> readers++ }
		assert(!changing);
		atomic { readers--; kick() }
		leave(r);
		round++
	:: else -> break
	od
}

active proctype query() {
	atomic { !writing -> readers++ }
	assert(!changing);
	atomic { readers--; kick() }
}

inline until(condition) {
	waiters++;
	do
	:: condition -> break
	:: else -> kicked; kicked = false
	od;
	waiters--
}

inline open_gate() {
	take_gate();
	shut = false;
	wake[0] = parked[0]; parked[0] = false;
	wake[1] = parked[1]; parked[1] = false;
	release_gate();
	if
	:: wake[0] -> woken[0] = true
	:: else
	fi;
	if
	:: wake[1] -> woken[1] = true
	:: else
	fi
}

inline write_lock() {
	do
	:: until(readers == 0);
	   atomic {
		if
		:: readers == 0 -> writing = true; break
		:: else
		fi
	   }
	od
}

inline drain() {
	shut = true;
	/* not all cells at once; from here on each can only fall to 0, or rise and fall again */
	until(inside[0] == 0);
	until(inside[1] == 0)
}

active proctype main() {
	byte round = 0;
	atomic { run request(0); run request(1) }
	do
	:: round < CHANGES ->
#ifdef BUG_LOCK_FIRST
		write_lock();
		drain();
#else
		drain();
		drained = true;
		write_lock();
#endif
		atomic { changing = true; assert(readers == 0) }
		changing = false;
		writing = false;
		drained = false;
		open_gate();
		round++
	:: else -> break
	od
}
