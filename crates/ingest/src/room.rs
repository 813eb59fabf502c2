//! How much memory the rows of one request may take.
//!
//! A small body can mean large rows: a resource is copied to each of its spans, and an empty event of two bytes takes an
//! entry in each of six columns. What rows will take is estimated before they are written, and a request beyond its room is
//! refused whole, as one that is too large.

use crate::span_columns::ROWS_MAX;
use crate::wire::{Reader, WireError};

/// Rows may take so many times the message limit by this estimate. With what text grows by in JSON and what growing vectors
/// leave over, a request never takes more than 16 times the limit; `tests/memory.rs` measures it.
pub(crate) const ROOM_FACTOR: usize = 4;

/// A row without any content: its place in each column.
const ROW_BYTES: usize = 1_024;

/// An attribute, event or link without any content, while it is read and in its columns.
pub(crate) const ITEM_BYTES: usize = 96;

/// Text offsets are 32 bits wide: a batch ends before its texts could come near.
pub(crate) const BATCH_BYTES_MAX: usize = 256 << 20;

/// The bytes that rows may still take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    left_bytes: usize,
    /// Text that the batch under way may hold by now.
    batch_bytes: usize,
}

impl Room {
    /// Room for the rows of a message within this limit.
    pub(crate) fn of_message_limit(limit_bytes: usize) -> Self {
        Self { left_bytes: limit_bytes.saturating_mul(ROOM_FACTOR), batch_bytes: 0 }
    }

    /// For what had room before: a request of the log.
    pub(crate) fn unlimited() -> Self {
        Self { left_bytes: usize::MAX, batch_bytes: 0 }
    }

    /// Takes the room of one row: of what is copied to it from its resource and scope, and of its own bytes. Returns
    /// whether the batch under way, of so many rows, is full and the row begins a new one.
    ///
    /// # Errors
    /// One that says so, where there is not as much left.
    pub(crate) fn take_row(
        &mut self,
        rows: usize,
        origin_bytes: usize,
        item_bytes: usize,
        reader: &Reader<'_>,
    ) -> Result<bool, WireError> {
        // A control character takes six in JSON.
        const TEXT_FACTOR: usize = 6;
        self.take(ROW_BYTES + origin_bytes + item_bytes, reader)?;
        let row_bytes = origin_bytes + TEXT_FACTOR * item_bytes;
        let is_full = rows == ROWS_MAX || self.batch_bytes + row_bytes > BATCH_BYTES_MAX;
        self.batch_bytes = if is_full { row_bytes } else { self.batch_bytes + row_bytes };
        Ok(is_full)
    }

    /// Takes some of it.
    ///
    /// # Errors
    /// One that says so, where there is not as much left.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize, reader: &Reader<'_>) -> Result<(), WireError> {
        match self.left_bytes.checked_sub(bytes) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => Err(reader.no_room()),
        }
    }
}
