//! A pool of threads that fork and join: it can be stopped, joins when dropped, carries a
//! worker's panic to the caller, and gives every task the same number whatever thread runs it.
#![allow(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Error, Result};

/// A task body, borrowed from the caller of [`Pool::run`] for as long as the run lasts.
#[derive(Clone, Copy)]
struct Body(*const (dyn Fn(usize, usize) + Sync));

// SAFETY: the body is `Sync`, and `run` does not return before every worker has let go of it.
unsafe impl Send for Body {}

#[derive(Default)]
struct State {
    /// Counts runs, so that a worker takes part in each once.
    generation: u64,
    body: Option<Body>,
    tasks: usize,
    /// Workers that have not finished the current run.
    busy: usize,
    panic: Option<Box<dyn Any + Send>>,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    started: Condvar,
    finished: Condvar,
    next_task: AtomicUsize,
}

/// Threads that run numbered tasks together with the thread that asks.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a run: runs from several threads take turns.
    turn: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// A pool of `threads` threads, the calling one included; 0 takes the machine's parallelism.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the system won't start a thread.
    pub fn new(threads: usize) -> Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let mut pool = Self::serial();
        for worker in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let handle = std::thread::Builder::new()
                .name(format!("voxtile-{worker}"))
                .spawn(move || work(&shared, worker))
                .map_err(|error| {
                    Error::Unsupported(format!("starting thread {worker} of {threads}: {error}"))
                })?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// A pool of the calling thread alone.
    pub fn serial() -> Self {
        let shared = Shared {
            state: Mutex::default(),
            started: Condvar::new(),
            finished: Condvar::new(),
            next_task: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared), workers: Vec::new(), turn: Mutex::new(()) }
    }

    /// How many threads take part in a run.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `body(task, worker)` for every task below `tasks`, `worker` being below
    /// [`Pool::threads`], and returns when all are done. Tasks start in order of their numbers.
    /// `body` must not call `run` on the same pool.
    ///
    /// # Panics
    /// If a body panics, with its payload, once every worker has stopped.
    pub fn run(&self, tasks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(|task| body(task, 0));
            return;
        }
        let _turn = lock(&self.turn);
        // SAFETY: only the lifetime changes; the body is cleared below before `run` returns.
        let erased = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize, usize) + Sync + '_),
                *const (dyn Fn(usize, usize) + Sync + 'static),
            >(body)
        };
        {
            let mut state = lock(&self.shared.state);
            state.generation += 1;
            state.body = Some(Body(erased));
            state.tasks = tasks;
            state.busy = self.workers.len();
            self.shared.next_task.store(0, Ordering::Relaxed);
        }
        self.shared.started.notify_all();
        let own = catch_unwind(AssertUnwindSafe(|| take_tasks(&self.shared, tasks, 0, body)));
        let mut state = lock(&self.shared.state);
        while state.busy > 0 {
            state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.body = None;
        let theirs = state.panic.take();
        drop(state);
        if let Some(payload) = own.err().or(theirs) {
            resume_unwind(payload);
        }
    }

    /// As [`Pool::run`], for tasks in rows of `row`: those of a row start when the tasks of all rows
    /// but the `under_way - 1` before it have ended. From 1 to [`MOST_ROWS`] may be under way.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn run_rows(
        &self,
        tasks: usize,
        row: usize,
        under_way: usize,
        body: &(dyn Fn(usize, usize) + Sync),
    ) {
        assert!((1..=MOST_ROWS).contains(&under_way), "{under_way} rows under way");
        let rows = Rows { state: Mutex::default(), ended: Condvar::new(), tasks, row };
        self.run(tasks, &|task, worker| {
            // Tasks are handed out in order, so those that a task waits for are with threads that
            // wait for none after it.
            let row = task / row;
            if let Some(mut ended) = rows.wait((row + 1).saturating_sub(under_way), row) {
                body(task, worker);
                ended.well = true;
            }
        });
    }

    /// Runs `body(task, item, worker)` for every item of `items`, each item exclusively.
    ///
    /// # Panics
    /// As [`Pool::run`].
    pub fn for_each<T: Send>(&self, items: Vec<T>, body: impl Fn(usize, T, usize) + Sync) {
        let slots: Vec<Mutex<Option<T>>> =
            items.into_iter().map(|item| Mutex::new(Some(item))).collect();
        self.run(slots.len(), &|task, worker| {
            if let Some(item) = lock(&slots[task]).take() {
                body(task, item, worker);
            }
        });
    }
}

/// The most rows of [`Pool::run_rows`] that may be under way.
pub const MOST_ROWS: usize = 32;

/// How far the rows of [`Pool::run_rows`] are.
struct Rows {
    state: Mutex<RowState>,
    ended: Condvar,
    tasks: usize,
    row: usize,
}

#[derive(Default)]
struct RowState {
    /// Rows that have ended before the first that has not.
    done: usize,
    /// Tasks that have ended of each row from there on, `[row % MOST_ROWS]`.
    ended: [usize; MOST_ROWS],
    failed: bool,
}

/// A task that has started; ends when dropped.
struct Started<'a> {
    rows: &'a Rows,
    row: usize,
    /// Whether it came to its end.
    well: bool,
}

impl Rows {
    /// Waits until the first `needed` rows have ended, to start a task of `row`; `None` if a task
    /// has failed.
    fn wait(&self, needed: usize, row: usize) -> Option<Started<'_>> {
        let mut state = lock(&self.state);
        while state.done < needed && !state.failed {
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // Not made but to be kept: its end takes the lock.
        (!state.failed).then(|| Started { rows: self, row, well: false })
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let Rows { tasks, row, .. } = *self.rows;
        let mut state = lock(&self.rows.state);
        state.ended[self.row % MOST_ROWS] += 1;
        state.failed |= !self.well;
        let before = state.done;
        loop {
            let (first, at) = (state.done * row, state.done % MOST_ROWS);
            if first >= tasks || state.ended[at] < row.min(tasks - first) {
                break;
            }
            state.ended[at] = 0;
            state.done += 1;
        }
        if state.done > before || state.failed {
            self.rows.ended.notify_all();
        }
    }
}

fn take_tasks(shared: &Shared, tasks: usize, worker: usize, body: &(dyn Fn(usize, usize) + Sync)) {
    loop {
        let task = shared.next_task.fetch_add(1, Ordering::Relaxed);
        if task >= tasks {
            return;
        }
        body(task, worker);
    }
}

fn work(shared: &Shared, worker: usize) {
    let mut seen = 0;
    loop {
        let (body, tasks) = {
            let mut state = lock(&shared.state);
            while state.generation == seen && !state.stop {
                state = shared.started.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stop {
                return;
            }
            seen = state.generation;
            (state.body, state.tasks)
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if let Some(Body(body)) = body {
                // SAFETY: `run` keeps the body alive until this worker has counted itself out.
                take_tasks(shared, tasks, worker, unsafe { &*body });
            }
        }));
        let mut state = lock(&shared.state);
        if let Err(payload) = outcome {
            // Nobody needs to start what is left of a run that has failed.
            shared.next_task.store(tasks, Ordering::Relaxed);
            state.panic.get_or_insert(payload);
        }
        state.busy -= 1;
        if state.busy == 0 {
            shared.finished.notify_one();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.started.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic has already reached the caller of `run`.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_on_any_number_of_threads() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|task, worker| {
                    assert!(worker < threads);
                    counts[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(3).unwrap();
        for bad in [0, 5, 19] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|task, _| assert!(task != bad, "task {task} failed"));
            }));
            let payload = outcome.unwrap_err();
            let text = payload.downcast_ref::<String>().unwrap();
            assert_eq!(text, &format!("task {bad} failed"));
        }
        let sum = AtomicUsize::new(0);
        pool.run(10, &|task, _| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn tasks_of_a_row_wait_for_all_but_the_rows_before_it() {
        for (threads, tasks, row, under_way) in
            [(1, 10, 3, 1), (2, 40, 1, 1), (3, 40, 3, 1), (4, 61, 4, 2), (8, 50, 2, 3)]
        {
            let pool = Pool::new(threads).unwrap();
            let ended: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run_rows(tasks, row, under_way, &|task, _| {
                let needed = (task / row + 1).saturating_sub(under_way) * row;
                assert!(ended[..needed].iter().all(|count| count.load(Ordering::Relaxed) == 1));
                if task % 3 == 0 {
                    std::thread::yield_now();
                }
                ended[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(ended.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn nobody_waits_for_a_task_that_failed() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads).unwrap();
            for bad in [0, 7, 29] {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    pool.run_rows(30, 2, 1, &|task, _| assert!(task != bad, "task {task} failed"));
                }));
                let payload = outcome.unwrap_err();
                assert_eq!(
                    *payload.downcast_ref::<String>().unwrap(),
                    format!("task {bad} failed")
                );
            }
            pool.run_rows(30, 2, 1, &|_, _| ());
        }
    }

    #[test]
    fn items_are_handed_out_exclusively() {
        let pool = Pool::new(4).unwrap();
        let mut values = vec![0usize; 50];
        pool.for_each(values.chunks_mut(7).collect(), |task, chunk, _| chunk.fill(task));
        assert!(values.iter().enumerate().all(|(index, value)| *value == index / 7));
    }
}
