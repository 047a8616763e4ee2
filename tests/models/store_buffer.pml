/*
 * The store/load crossing of rule C1, on a machine that has store buffers: what the full fences in
 * util/notify_gate.h (BasicNotifyGate::prepare_to_sleep and ::notify) are for. Every other "publish, then
 * look whether anyone waits" in the tree has this shape and must use such a pair.
 *
 *   waiter     announced = 1    fence    sleep unless `state` is set
 *   notifier   state = 1        fence    kick if `announced`
 *
 * A store enters the writer's own FIFO buffer (two entries) and reaches memory some time later. (A
 * load would look into the own buffer first; nobody here reads what it wrote.) This is x86's memory model; on
 * weaker machines more can go wrong, and the same fences stop it. Two rounds run, so that stores of round 1 may still be in flight in round 2.
 *
 * Checked: the waiter never sleeps while `state` is set and no kick is under way (invalid end state), and it
 * never leaves a round before the notifier has published it (assertion).
 *
 * With MAIN_WAIT, the same crossing in util/main_wait.h: MainWait::until announces itself once, behind one fence,
 * and then looks as often as it is kicked; MainWait::kick comes after every change (here two, of which the second
 * is what the waiter wants).
 *
 * With ENTRY, two who each store their own word and then look at the other's, of whom at least one must see the
 * other: who enters (BasicGraphLock::read_lock's cell, RequestGate::enter's count) and who shuts (the flag of
 * BasicGraphLock::write_lock and of RequestGate::shut).
 *   entering   inside = 1     fence    in, unless `shut` is set
 *   shutting   shut = 1       fence    alone, unless `inside` is set
 * Checked: it is not the case that one is in and the other believes to be alone (assertion).
 *
 * Bad twins: either fence alone is not enough
 *   BUG_NO_FENCE_WAITER, BUG_NO_FENCE_NOTIFIER    by deadlock, also with MAIN_WAIT
 *   ENTRY, BUG_NO_FENCE_ENTERING or BUG_NO_FENCE_SHUTTING    by assertion
 */

#define ROUNDS 2
#define WAITER 0
#define NOTIFIER 1

/* The shared words hold the number of the last round announced or published. */
#define ANNOUNCED 0
#define STATE 1
byte shared[2];
byte kicked;              /* the kick is a system call: seen at once, never reordered */
byte asleep;

chan buffer[2] = [2] of { byte, byte };   /* word, value */

#define STORE(writer, word, value) buffer[writer]!word,value
#define FENCE(writer) empty(buffer[writer])

active proctype memory() {
	byte word, value;
end:	do
	:: atomic { buffer[WAITER]?word,value -> shared[word] = value }
	:: atomic { buffer[NOTIFIER]?word,value -> shared[word] = value }
	od
}

#if defined(ENTRY)

#define ENTERING WAITER
#define SHUTTING NOTIFIER
#define INSIDE ANNOUNCED
#define SHUT STATE

bool in, alone;           /* ghosts */

active proctype entering() {
	STORE(ENTERING, INSIDE, 1);
#ifndef BUG_NO_FENCE_ENTERING
	FENCE(ENTERING);
#endif
	if
	:: shared[SHUT] == 0 -> in = true; assert(!alone)
	:: shared[SHUT] != 0
	fi
}

active proctype shutting() {
	STORE(SHUTTING, SHUT, 1);
#ifndef BUG_NO_FENCE_SHUTTING
	FENCE(SHUTTING);
#endif
	if
	:: shared[INSIDE] == 0 -> alone = true; assert(!in)
	:: shared[INSIDE] != 0
	fi
}

#elif defined(MAIN_WAIT)

active proctype waiter() {
	STORE(WAITER, ANNOUNCED, 1);
#ifndef BUG_NO_FENCE_WAITER
	FENCE(WAITER);
#endif
	do
	:: shared[STATE] == ROUNDS -> break
	:: shared[STATE] < ROUNDS ->
		kicked;               /* poll(): a kick stays until it is taken */
		kicked = 0
	od
}

active proctype notifier() {
	byte round = 1;
	do
	:: round <= ROUNDS ->
		STORE(NOTIFIER, STATE, round);
#ifndef BUG_NO_FENCE_NOTIFIER
		FENCE(NOTIFIER);
#endif
		if
		:: shared[ANNOUNCED] -> kicked = 1
		:: !shared[ANNOUNCED]
		fi;
		round++
	:: else -> break
	od
}

#else

active proctype waiter() {
	byte round = 1;
	do
	:: round <= ROUNDS ->
		STORE(WAITER, ANNOUNCED, round);
#ifndef BUG_NO_FENCE_WAITER
		FENCE(WAITER);
#endif
		if
		:: shared[STATE] >= round
		:: shared[STATE] < round ->
			asleep = round;
			kicked >= round       /* poll() */
		fi;
		asleep = 0;
		assert(shared[STATE] >= round);
		round++
	:: else -> break
	od
}

active proctype notifier() {
	byte round = 1;
	do
	:: round <= ROUNDS ->
		STORE(NOTIFIER, STATE, round);
#ifndef BUG_NO_FENCE_NOTIFIER
		FENCE(NOTIFIER);
#endif
		if
		:: shared[ANNOUNCED] >= round -> kicked = round
		:: shared[ANNOUNCED] < round
		fi;
		round++
	:: else -> break
	od
}

#endif
