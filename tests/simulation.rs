//! A seeded simulation: ingest and storage whole, on an object store that fails, answers late or not at all, a disk that
//! fails and forgets, a clock that jumps, processes that die and start again, and others beside them on the same store.
//!
//! ```sh
//! SPANLAKE_SIMULATION_SEEDS=10000 cargo test --workspace --test simulation   # from 1; two hundred in CI
//! SPANLAKE_SIMULATION_SEED=4711 cargo test --workspace --test simulation     # the one that failed
//! ```

#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/promoted.rs"]
mod promoted;
#[path = "simulation/world.rs"]
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use spanlake_testkit::SplitMix64;
use world::{Lie, World};

const SEEDS: u64 = 200;
/// Waiting takes most of the time of a seed: more threads than cores.
const THREADS: usize = 4;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

fn run(seed: u64, lie: Option<Lie>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut world = World::new(seed).await;
        lie.into_iter().for_each(|lie| world.lie(lie));
        let steps = SplitMix64::new(seed).between(5, 40);
        for _ in 0..steps {
            world.step().await;
        }
        world.settle().await;
    });
}

/// Says which seed it was where a test panics.
struct Announce(u64);

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("SPANLAKE_SIMULATION_SEED={seed} cargo test --workspace --test simulation");
        }
    }
}

/// Scenario: a few dozen random steps: requests new and repeated, flushes, views, crashes at any call to the store or the disk,
/// restarts, ends in good order, a second process, clock jumps, puts that arrive after their sender died.
/// Guarantee, at each view and at the end: what was acknowledged is there exactly once, hot and cold; what was not is there
/// whole or not at all; no span that nobody sent; each process's positions in the tables only grow.
#[test]
fn seeds() {
    let (first, count) = match setting("SPANLAKE_SIMULATION_SEED") {
        Some(seed) => (seed, 1),
        None => (1, setting("SPANLAKE_SIMULATION_SEEDS").unwrap_or(SEEDS)),
    };
    let next = AtomicU64::new(first);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let _announce = Announce(seed);
                    run(seed, None);
                }
            });
        }
    });
    println!("{count} seeds from {first}");
}

/// Scenario: a disk whose syncs do nothing, a store that answers puts which it does not do, and one that overwrites commits.
/// Guarantee: each is noticed within a few seeds: the simulation can fail.
#[test]
fn lies_are_noticed() {
    for lie in [Lie::Sync, Lie::ForgottenPut, Lie::OverwrittenPut] {
        let noticed = (1..=SEEDS).find(|seed| std::panic::catch_unwind(|| run(*seed, Some(lie))).is_err());
        println!("{lie:?} is noticed by seed {noticed:?}");
        assert!(noticed.is_some(), "{lie:?} goes unnoticed in {SEEDS} seeds");
    }
}
