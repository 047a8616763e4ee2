/*
 * Multifd's sender (T001a): MultifdSender of migration/multifd_sender.h, function by function, with the semaphores
 * of util/semaphore.h (tokens are taken before the end is seen).
 *
 *   migration  hands out OPS things, each a batch or a sync on all channels, then finishes
 *   channel    connects, works, and may fail at connecting, in a batch, or in a sync
 *   outsider   cancels at any time, or never
 *
 * Checked
 *   I1  no batch is overwritten while a channel reads it (assertion)
 *   I2  never more idle tokens than channels; exactly as many after each sync and at the end (assertion)
 *   I3  each sync request is answered once (assertion)
 *   I4  the migration thread comes to its end, and so do the channels (invalid end state)
 *   I5  a sync is sent after the batches before it (assertion)
 *   I6  slots are filled when empty, and a channel is not woken for nothing (assertion)
 *
 * Bad twins
 *   BUG_EXIT_WITHOUT_DONE  an exit answers no sync, and the wait for one does not end with the channels: deadlock
 *   BUG_SYNC_WITHOUT_TOKEN a sync gives a token back that it did not take, the drift of years: assertion (I2)
 *   BUG_TOKEN_NAMES_CHANNEL the next channel is taken for the one that is idle: assertion (I1)
 *   BUG_CLEAR_AFTER_WRITE  what is asked for during a write is cleared after it: deadlock
 *   BUG_SYNC_FIRST         a channel with both slots full begins with the sync: assertion (I5)
 *   BUG_NO_TAKE_BACK       what is given to a channel that has just died stays there: assertion (I2, I3)
 *   BUG_STOP_LAST          a dying channel answers before it ends all waits, and a sync with nothing wrong to see
 *                          counts tokens that are still on their way back: assertion (I2)
 *
 * STALL: a channel may also be stuck in a write until the switch is thrown; then the outsider always cancels.
 *   BUG_NO_SWITCH          the end reaches those who wait, but not a channel that writes: deadlock
 */

#define N 2
#ifdef STALL
#define OPS 2
#else
#define OPS 3
#endif

byte idle = N;
byte work[N];
byte done[N];
bool idle_closed;
bool work_closed[N];
bool done_closed[N];

bool job[N];
bool sync[N];
bool dead[N];
bool stopped;
#ifdef STALL
bool cancelled;           /* the switch: whoever is stuck in a write fails */
#endif

bool reading[N];          /* ghosts: the channel uses the batch; requests and answers */
byte asked[N];
byte answered[N];
byte ended;               /* channels that may be joined */

inline post_idle() { atomic { idle++; assert(idle <= N) } }     /* I2 */

inline post_done(c) { atomic { done[c]++; answered[c]++ } }

inline stop() {
	stopped = true;
#ifdef STALL
#ifndef BUG_NO_SWITCH
	cancelled = true;
#endif
#endif
	idle_closed = true;
	work_closed[0] = true;
#ifndef BUG_EXIT_WITHOUT_DONE
	done_closed[0] = true;
#endif
	work_closed[1] = true;
#ifndef BUG_EXIT_WITHOUT_DONE
	done_closed[1] = true;
#endif
}

inline take_back_job(c) {
	atomic { had = job[c]; job[c] = false };
	if
	:: had -> post_idle()
	:: else
	fi
}

inline take_back_sync(c) {
	atomic { had = sync[c]; sync[c] = false };
	if
	:: had ->
	   post_idle();
#ifndef BUG_EXIT_WITHOUT_DONE
	   post_done(c)
#endif
	:: else
	fi
}

/* take_idle_token(): `got` tells whether there is one to spend */
inline take_idle_token() {
	if
	:: atomic { idle > 0 -> idle--; token = true }
	:: atomic { idle == 0 && idle_closed -> token = false }
	fi;
	got = !stopped;
	if
	:: !got && token -> post_idle()
	:: else -> assert(!got || token)
	fi
}

active proctype migration() {
	byte ops, c, steps, next;
	bool token, got, had;
	do
	:: ops < OPS ->
	   ops++;
	   if
	   :: /* hand_out_batch() */
	      take_idle_token();
	      if
	      :: !got -> break
	      :: else
	      fi;
#ifdef BUG_TOKEN_NAMES_CHANNEL
	      c = next; next = 1 - next;
#else
	      steps = 0;
	      do
	      :: c = next; next = 1 - next; steps++;
	         assert(steps <= N);
	         if
	         :: !job[c] -> break
	         :: else
	         fi
	      od;
#endif
	      assert(!reading[c]);                              /* I1: the swap of the batches */
	      job[c] = true;
	      work[c]++;
#ifndef BUG_NO_TAKE_BACK
	      if
	      :: dead[c] -> take_back_job(c)
	      :: else
	      fi
#endif
	   :: /* sync() */
	      c = 0;
	      do
	      :: c < N ->
#ifdef BUG_SYNC_WITHOUT_TOKEN
	         got = true;
#else
	         take_idle_token();
#endif
	         if
	         :: !got -> break
	         :: else
	         fi;
	         assert(!sync[c]);                              /* I6 */
	         atomic { asked[c]++; sync[c] = true };
	         work[c]++;
#ifndef BUG_NO_TAKE_BACK
	         if
	         :: dead[c] -> take_back_sync(c)
	         :: else
	         fi;
#endif
	         c++
	      :: else -> break
	      od;
	      if
	      :: !got -> break
	      :: else
	      fi;
	      c = 0;
	      do
	      :: c < N ->
	         if
	         :: atomic { done[c] > 0 -> done[c]-- }
	         :: done[c] == 0 && done_closed[c]
	         fi;
#ifndef BUG_EXIT_WITHOUT_DONE
	         if
	         :: stopped -> got = false; break
	         :: else
	         fi;
#endif
	         c++
	      :: else -> break
	      od;
	      if
	      :: !got -> break
	      :: else
	      fi;
	      assert(idle == N || stopped)                      /* I2 */
	   fi
	:: else -> break
	od;
	/* finish(), or the destructor */
	work_closed[0] = true;
	work_closed[1] = true;
	ended == N;
	assert(idle == N);                                      /* I2 */
#ifndef BUG_EXIT_WITHOUT_DONE
	assert(asked[0] == answered[0] && asked[1] == answered[1])  /* I3 */
#endif
}

proctype channel(byte c) {
	bool had, works;
	if
	:: skip                                                 /* connected */
	:: goto failed
	fi;
	do
	:: if
	   :: atomic { work[c] > 0 -> work[c]--; works = true }
	   :: atomic { work[c] == 0 && work_closed[c] -> works = false }
	   fi;
	   if
	   :: !works || stopped -> goto leave
	   :: else
	   fi;
	   if
#ifdef BUG_SYNC_FIRST
	   :: job[c] && !sync[c] ->
#else
	   :: job[c] ->
#endif
	      reading[c] = true;
	      if
	      :: reading[c] = false                             /* sent */
	      :: reading[c] = false; goto failed
#ifdef STALL
	      :: skip; cancelled -> reading[c] = false; goto failed
#endif
	      fi;
#ifdef BUG_CLEAR_AFTER_WRITE
	      atomic { job[c] = false; sync[c] = false };
#else
	      job[c] = false;
#endif
	      post_idle()
	   :: else ->
#ifdef BUG_CLEAR_AFTER_WRITE
	      if
	      :: !sync[c] -> goto again
	      :: else
	      fi;
#else
	      assert(sync[c]);                                  /* I6 */
#endif
	      assert(!job[c]);                                  /* I5 */
	      if
	      :: skip                                           /* sent */
	      :: goto failed
	      fi;
	      sync[c] = false;
	      post_idle();
	      post_done(c)
	   fi;
#ifdef BUG_CLEAR_AFTER_WRITE
again:	   skip
#endif
	od;

failed:
#ifdef BUG_STOP_LAST
	dead[c] = true;
	take_back_job(c);
	take_back_sync(c);
	stop();
	goto out;
#else
	stop();
#endif
leave:
	dead[c] = true;
	take_back_job(c);
	take_back_sync(c);
#ifdef BUG_STOP_LAST
out:	skip;
#endif
	ended++
}

active proctype outsider() {
#ifdef STALL
	stop()
#else
	if
	:: stop()
	:: skip
	fi
#endif
}

init { atomic { run channel(0); run channel(1) } }
