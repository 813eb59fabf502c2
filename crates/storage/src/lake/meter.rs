//! How much memory rows hold.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use arrow::array::{Array, ArrayData};
use arrow::record_batch::RecordBatch;

/// What an array costs beside its buffers.
const ARRAY_OVERHEAD_BYTES: u64 = 128;

/// Measures the memory that batches hold: whole allocations, each once, however many arrays share it.
#[derive(Debug, Default)]
pub(super) struct Meter {
    seen: HashSet<usize, BuildHasherDefault<AddressHasher>>,
}

/// Spreads addresses, which no sender chooses.
#[derive(Debug, Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_usize(byte.into()));
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (self.0 ^ address as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Meter {
    /// The bytes that this batch holds beyond those measured before.
    pub(super) fn batch_bytes(&mut self, batch: &RecordBatch) -> u64 {
        batch.columns().iter().map(|column| self.array_bytes(&column.to_data())).sum()
    }

    fn array_bytes(&mut self, array: &ArrayData) -> u64 {
        let nulls = array.nulls().map(|nulls| nulls.buffer());
        let buffers: u64 = array
            .buffers()
            .iter()
            .chain(nulls)
            .filter(|buffer| self.seen.insert(buffer.data_ptr().as_ptr() as usize))
            // A buffer over memory that Arrow did not allocate knows no capacity.
            .map(|buffer| buffer.capacity().max(buffer.len()) as u64)
            .sum();
        let children: u64 = array.child_data().iter().map(|child| self.array_bytes(child)).sum();
        ARRAY_OVERHEAD_BYTES + buffers + children
    }
}
