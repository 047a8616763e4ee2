/*
 * RCU sections that contain a BQL acquisition: util/rcu.h (RcuReadGuard, rcu_call, rcu_synchronize,
 * rcu_drain_callbacks) and util/bql.h, as memory/'s listener lists use them (T004c).
 *
 *   vcpu       MMIO: enters a read section, takes the BQL inside it, runs the device; the handler may be
 *              an eject that unregisters the listener on the spot (legal, must never block)
 *   main       holds the BQL, unregisters the listener if it is still there, finalises what the
 *              reclaimer handed over, sleeps without the BQL; drains the callbacks at shutdown with the BQL
 *              released; or stays for ever in a nested poll *with* the BQL (a request that never ends)
 *   migration  a reader that never takes the BQL: loads the listener, calls its log_clear
 *   reclaimer  waits until every section that existed has ended, then runs the callback: frees the
 *              plain memory and posts the rest to main's finalise list
 *
 * Checked
 *   I10   a listener found inside a section is not freed while that section lasts
 *   I11   unregistering never blocks; no deadlock among sections, BQL and grace periods
 *   the listener is finalised at most once, by main, under the BQL, and always by the time main has drained
 *   the reclaimer waits for readers only: at rest, with no section open, its queue is empty, even when
 *   main keeps the BQL for ever
 *
 * Good: unregister = unpublish and rcu_call.
 * Bad twins
 *   BUG_WAIT_IN_READER       the eject handler waits for the grace period: for itself     by deadlock
 *   BUG_WAIT_UNDER_BQL       main waits for it with the BQL held, a vCPU inside a section wants that BQL
 *                                                                                         by deadlock
 *   BUG_DRAIN_UNDER_BQL      main drains the callbacks with the BQL held                  by deadlock
 *   BUG_FREE_WITHOUT_GRACE   unregister frees at once, the migration reader still has it  by assertion
 *   BUG_RECLAIMER_TAKES_BQL  callbacks run under the BQL: nothing is reclaimed while main keeps it
 *                                                                                         by assertion
 */

#define VCPU 0
#define MIGRATION 1
#define SECTIONS 2        /* read sections each reader goes through */
#define IN_SECTION(reader) (section[reader] % 2)

byte section[2];          /* odd inside a section; a new value for each, so a grace period can tell */
bool bql;
bool published = true;    /* the listener is reachable by readers */
bool freed;
bool queued;              /* rcu_call's queue: one listener, so one callback */
bool to_finalise;         /* main's finalise list */
byte finalised;
bool vcpu_gone;

inline read_lock(reader)   { atomic { assert(!IN_SECTION(reader)); section[reader]++ } }
inline read_unlock(reader) { atomic { assert(IN_SECTION(reader)); section[reader]++ } }

/* Waits for the sections that exist now, not for later ones. */
inline snapshot_readers() { atomic { seen[0] = section[0]; seen[1] = section[1] } }
#define LEFT(reader) (seen[reader] % 2 == 0 || section[reader] != seen[reader])

inline take_bql() { atomic { !bql -> bql = true } }

inline free_listener() {
	freed = true;
	to_finalise = true
}

/* How unregister disposes of the listener it has unpublished: with the BQL held. */
inline dispose_later() {
#ifdef BUG_FREE_WITHOUT_GRACE
	free_listener()
#else
	queued = true             /* rcu_call */
#endif
}
inline dispose_by_waiting() {
	snapshot_readers();
	LEFT(VCPU);
	LEFT(MIGRATION);
	free_listener()
}

active proctype vcpu() {
	byte turn = 0;
	bool found;
#ifdef BUG_WAIT_IN_READER
	byte seen[2];
#endif
	do
	:: turn < SECTIONS ->
		read_lock(VCPU);
		found = published;
end_mmio:	take_bql();                   /* never, if main polls for ever */
		assert(!found || !freed);     /* the device's handler runs */
		if
		:: published ->               /* ... and ejects it */
			published = false;
#ifdef BUG_WAIT_IN_READER
			dispose_by_waiting()
#else
			dispose_later()
#endif
		:: true
		fi;
		assert(!found || !freed);     /* ... and returns through it */
		bql = false;
		read_unlock(VCPU);
		turn++
	:: else -> break
	od;
	vcpu_gone = true
}

active proctype migration() {
	byte turn = 0;
	bool found;
	do
	:: turn < SECTIONS ->
		read_lock(MIGRATION);
		found = published;
		assert(!found || !freed);     /* log_clear */
		read_unlock(MIGRATION);
		turn++
	:: else -> break
	od
}

active proctype reclaimer() {
	byte seen[2];
end_idle:
	queued;
	snapshot_readers();
end_grace:
	LEFT(VCPU);                           /* it may be waiting for a BQL that main keeps */
	LEFT(MIGRATION);
#ifdef BUG_RECLAIMER_TAKES_BQL
end_bql:
	take_bql();
#endif
	free_listener();
#ifdef BUG_RECLAIMER_TAKES_BQL
	bql = false;
#endif
	queued = false
}

inline finalise() {
	if
	:: to_finalise ->
		to_finalise = false;
		assert(freed);
		finalised++;
		assert(finalised == 1)
	:: else
	fi
}

/* rcu_drain_callbacks(): those queued so far have run. */
inline drain_callbacks() {
	!queued
}

active proctype main() {
#ifdef BUG_WAIT_UNDER_BQL
	byte seen[2];
#endif
	take_bql();
	if
	:: published ->
		published = false;
#ifdef BUG_WAIT_UNDER_BQL
		dispose_by_waiting()
#else
		dispose_later()
#endif
	:: true
	fi;
	if
	:: true
	:: true ->
end_stuck:	false                         /* a nested poll for a request that never ends */
	fi;
#ifdef BUG_DRAIN_UNDER_BQL
	drain_callbacks();
#endif
	bql = false;
	drain_callbacks();
	take_bql();
	finalise();
	bql = false;
	/* shutdown */
	vcpu_gone;
	drain_callbacks();
	take_bql();
	finalise();
	bql = false;
	assert(published || finalised == 1)
}

active proctype at_rest() {
	timeout;
	assert(IN_SECTION(VCPU) || IN_SECTION(MIGRATION) || !queued)
}
