/*
 * The notify protocol: util/notify_gate.h (BasicNotifyGate), as AioContext and the main loop use it.
 *
 *   poller      prepare_to_sleep(): count + 1, full fence; look at the pending work; poll with no
 *               time-out if there is none; done_sleeping(): count - 1; clear the eventfd; consume.
 *   scheduler   publish (a BH that is pending already is left alone); notify(): full fence, read the
 *               count, write the eventfd if it is not 0.
 *
 * The cast: a permanent poller whose handlers may run a nested poll and may schedule again, a
 * temporary poller that comes, polls with or without blocking, and goes, and two schedulers that may
 * stop at any moment. `sched` stands for the pending work, `event` for the eventfd.
 *
 * Checked
 *   safety   at rest (nothing can move but by a scheduler that has stopped) no work is pending, and
 *            the count equals the number of threads asleep (I8, and C5's conservation law)
 *   served   [] (sched -> <> !sched) under weak fairness: pending work runs (I7)
 *   quiet    [] (event -> <> !event) under weak fairness: no loop spins on a stale eventfd
 *
 * Variants
 *   (none)         sequentially consistent
 *   SHORTCUT       a `notified` flag spares the loop the read of an eventfd that was not written;
 *                  Rhea has none, the twin shows what its order would have to be
 *   STORE_BUFFER   the count's and the pending work's stores go through a store buffer each, which the
 *                  fences of rule C1 drain; one poller, two schedulers
 *
 * Bad twins
 *   BUG_DISPATCHING_FLAG      "somebody is dispatching" as a bool, instead of the count of sleepers:
 *                             the 2015 hang, with three threads *
 *   BUG_CLEAR_AFTER_CONSUME   a notification between consume and clear is thrown away   (I9)
 *   BUG_COUNT_AFTER_CHECK     the count is raised after the look at pending work        (I8)
 *   SHORTCUT BUG_SHORTCUT_FIRST   the flag is set before the eventfd is written: the loop takes the
 *                             flag, and nobody ever clears the eventfd; `quiet` alone breaks
 *   STORE_BUFFER BUG_NO_FENCE_POLLER, STORE_BUFFER BUG_NO_FENCE_NOTIFIER
 *                             one of the two fences is missing
 *   * Each of them breaks safety (the assertion at rest) and `served`, unless said otherwise.
 */

bool sched;               /* the pending work */
bool event;               /* the eventfd: non-zero? */
byte count;               /* NotifyGate's sleepers-to-be */
byte asleep;              /* threads inside a blocking poll; not part of the protocol */
bool dispatching;         /* BUG_DISPATCHING_FLAG only */
bool notified;            /* SHORTCUT only */

#ifdef STORE_BUFFER

/* One buffered store per writer; `memory` below drains it some time later, FENCE at once. */
#define POLLER 0
#define WRITERS 3
bool buffered[WRITERS];
byte count_buffer;

#define FENCE(writer) !buffered[writer]
#ifdef BUG_NO_FENCE_POLLER
#define POLLER_FENCE skip
#else
#define POLLER_FENCE FENCE(POLLER)
#endif
#ifdef BUG_NO_FENCE_NOTIFIER
#define NOTIFIER_FENCE skip
#else
#define NOTIFIER_FENCE FENCE(me)
#endif

inline store_count(value) { atomic { !buffered[POLLER] -> count_buffer = value; buffered[POLLER] = true } }
#define COUNT_UP   store_count(1)
#define COUNT_DOWN store_count(0)
#define PUBLISH    atomic { !buffered[me] -> buffered[me] = true }

active proctype memory() {
end:	do
	:: atomic { buffered[POLLER] -> count = count_buffer; buffered[POLLER] = false }
	:: atomic { buffered[1] -> sched = true; buffered[1] = false }
	:: atomic { buffered[2] -> sched = true; buffered[2] = false }
	od
}

#else

#define COUNT_UP       count++
#define COUNT_DOWN     atomic { assert(count > 0); count-- }
#define PUBLISH        sched = true
#define POLLER_FENCE   skip
#define NOTIFIER_FENCE skip

#endif

/* BasicNotifyGate::notify() after the work was published. */
inline notify() {
	NOTIFIER_FENCE;
	if
#ifdef BUG_DISPATCHING_FLAG
	:: !dispatching ->
#else
	:: count > 0 ->
#endif
#ifdef SHORTCUT
#ifdef BUG_SHORTCUT_FIRST
		notified = true;
		event = true
#else
		event = true;
		notified = true
#endif
#else
		event = true
#endif
	:: else
	fi
}

/* Pending already means: somebody else has published it and owes, or has given, the notification. */
inline schedule() {
	if
	:: atomic { !sched -> PUBLISH }
	   notify()
	:: else
	fi
}

inline clear_event() {
#ifdef SHORTCUT
	if
	:: notified -> notified = false; event = false
	:: else
	fi
#else
	event = false
#endif
}

inline take() {
	work = sched;
	if
	:: work -> sched = false
	:: else
	fi
}

/* One turn of the loop up to the point where the handlers of `work` would run. */
inline blocking_poll() {
#ifdef BUG_COUNT_AFTER_CHECK
	work = sched;
	COUNT_UP;
#else
	COUNT_UP;
	POLLER_FENCE;
	work = sched;
#endif
	if
	:: !work ->
		asleep++;
endpoll:	atomic { event -> asleep-- }
	:: else
	fi;
	COUNT_DOWN;
	finish_turn()
}

inline nonblocking_poll() {
	finish_turn()
}

inline finish_turn() {
#ifdef BUG_DISPATCHING_FLAG
	dispatching = true;
#endif
#ifdef BUG_CLEAR_AFTER_CONSUME
	take();
	clear_event()
#else
	clear_event();
	take()
#endif
}

inline end_turn() {
#ifdef BUG_DISPATCHING_FLAG
	dispatching = false
#else
	skip
#endif
}

active proctype permanent() {
	bool work;
#ifdef STORE_BUFFER
	byte me = POLLER;
#endif
endloop:
	do
	:: blocking_poll();
#ifndef STORE_BUFFER
	   if
	   :: work ->                /* the handler ... */
		if
		:: skip              /* ... only works */
		:: schedule()        /* ... schedules itself again */
		:: blocking_poll();  /* ... polls nested, as a drain does */
		   end_turn()
		fi
	   :: else
	   fi;
#endif
	   end_turn()
	od
}

#ifndef STORE_BUFFER
active proctype temporary() {
	bool work;
	do
	:: blocking_poll();
	   if
	   :: work -> schedule()     /* its handler schedules itself again: flag says "dispatching" */
	   :: work
	   :: else
	   fi;
	   end_turn()
	:: nonblocking_poll(); end_turn()
	:: break
	od
}
#endif

active [2] proctype scheduler() {
#ifdef STORE_BUFFER
	byte me = _pid - 1;       /* memory is 0, the poller 1 */
#endif
	do
	:: schedule()
	:: break
	od
}

#ifndef LIVENESS
active proctype at_rest() {
	timeout;
	assert(!sched);
	assert(count == asleep)
}
#endif

ltl served { [] (sched -> <> !sched) }
ltl quiet { [] (event -> <> !event) }
