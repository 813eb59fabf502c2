use std::fmt::{Display, Formatter};

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

/// The consumer that merges what a sort has spilled, as DataFusion names it.
const SPILL_MERGE: &str = "ExternalSorterMerge";

/// A fair pool in which merging spilled runs may not take everything.
///
/// A merge opens as many runs at once as it gets memory for, and makes do with less when it is refused. Left alone, the
/// first merge takes the whole pool, and the next partition, or the operator above, fails for want of a few megabytes.
#[derive(Debug)]
pub(crate) struct QueryPool {
    fair: FairSpillPool,
    merge_limit_bytes: usize,
}

impl QueryPool {
    pub(crate) fn new(limit_bytes: usize, threads: usize) -> Self {
        Self { fair: FairSpillPool::new(limit_bytes), merge_limit_bytes: limit_bytes / (2 * threads.max(1)) }
    }
}

impl MemoryPool for QueryPool {
    fn name(&self) -> &str {
        "query"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.fair.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.fair.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.fair.grow(reservation, additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.fair.shrink(reservation, shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let merges = reservation.consumer().name().starts_with(SPILL_MERGE);
        if merges && reservation.size() + additional > self.merge_limit_bytes {
            return Err(resources_datafusion_err!(
                "merging spilled rows may take {} bytes at once and asks for {}",
                self.merge_limit_bytes,
                reservation.size() + additional
            ));
        }
        self.fair.try_grow(reservation, additional)
    }

    fn reserved(&self) -> usize {
        self.fair.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.fair.memory_limit()
    }
}

impl Display for QueryPool {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        self.fair.fmt(formatter)
    }
}
