//! The values of a page, gathered from its batches and encoded by their type.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::datatypes::{DataType, Date32Type, Decimal128Type, Float64Type, Int64Type, TimestampMicrosecondType};
use parquet::basic::Encoding;

use super::bits::write_deltas;
use super::leaves::Slots;
use crate::{Error, ErrorKind, Result};

/// The values of the page that is being filled.
#[derive(Debug, Default)]
pub(super) struct Values {
    ints: Vec<i64>,
    days: Vec<i32>,
    floats: Vec<f64>,
    bools: Vec<bool>,
    wide: Vec<i128>,
    /// Of texts the lengths, here all their bytes.
    lengths: Vec<i64>,
    bytes: Vec<u8>,
}

/// Decimals of so many digits fit 64 bits.
const NARROW_DIGITS: u8 = 18;

/// The array as text.
///
/// # Panics
/// Where it is none: which leaves are text is known from the table.
pub(super) fn text_of(array: &ArrayRef) -> &StringArray {
    array.as_string()
}

/// How many bytes the values of a range take, about.
pub(super) fn bytes_of((array, range): &(ArrayRef, Range<usize>)) -> usize {
    let text = |offsets: &[i32]| (offsets[range.end] - offsets[range.start]) as usize;
    match array.data_type() {
        _ if array.null_count() == array.len() => 0,
        DataType::Utf8 => text(array.as_string::<i32>().value_offsets()) + range.len(),
        DataType::Binary => text(array.as_binary::<i32>().value_offsets()) + range.len(),
        DataType::Boolean => range.len(),
        DataType::Decimal128(..) => range.len() * 16,
        _ => range.len() * 8,
    }
}

impl Values {
    pub(super) fn clear(&mut self) {
        self.ints.clear();
        self.days.clear();
        self.floats.clear();
        self.bools.clear();
        self.wide.clear();
        self.lengths.clear();
        self.bytes.clear();
    }

    pub(super) fn add(&mut self, array: &ArrayRef, slots: &Slots) -> Result<()> {
        match array.data_type() {
            DataType::Int64 => {
                let values = array.as_primitive::<Int64Type>().values();
                slots.for_each_run(|run| self.ints.extend_from_slice(&values[run]));
            }
            DataType::Timestamp(_, _) => {
                let values = array.as_primitive::<TimestampMicrosecondType>().values();
                slots.for_each_run(|run| self.ints.extend_from_slice(&values[run]));
            }
            DataType::Date32 => {
                let values = array.as_primitive::<Date32Type>().values();
                slots.for_each_run(|run| self.days.extend_from_slice(&values[run]));
            }
            DataType::Decimal128(digits, _) => {
                let values = array.as_primitive::<Decimal128Type>().values();
                let narrow = *digits <= NARROW_DIGITS;
                slots.for_each_run(|run| match narrow {
                    true => self.ints.extend(values[run].iter().map(|value| *value as i64)),
                    false => self.wide.extend_from_slice(&values[run]),
                });
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>().values();
                slots.for_each_run(|run| self.floats.extend_from_slice(&values[run]));
            }
            DataType::Boolean => {
                let values = array.as_boolean().values();
                slots.for_each_run(|run| self.bools.extend(run.map(|slot| values.value(slot))));
            }
            DataType::Utf8 => {
                let array = array.as_string::<i32>();
                self.add_texts(array.value_offsets(), array.value_data(), slots);
            }
            DataType::Binary => {
                let array = array.as_binary::<i32>();
                self.add_texts(array.value_offsets(), array.value_data(), slots);
            }
            other => {
                let message = format!("columns of type {other} cannot be written to segments");
                return Err(Error::new(ErrorKind::Invalid, message));
            }
        }
        Ok(())
    }

    fn add_texts(&mut self, offsets: &[i32], bytes: &[u8], slots: &Slots) {
        slots.for_each_run(|run| {
            let offsets = &offsets[run.start..=run.end];
            self.lengths.extend(offsets.windows(2).map(|ends| i64::from(ends[1] - ends[0])));
            let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
            self.bytes.extend_from_slice(&bytes[first as usize..last as usize]);
        });
    }

    /// Writes the page's values and returns how. `fixed_bytes` is the length of values of a fixed one.
    pub(super) fn write(&self, body: &mut Vec<u8>, data_type: &DataType, fixed_bytes: i32) -> Encoding {
        match data_type {
            DataType::Utf8 | DataType::Binary => {
                write_deltas(body, &self.lengths);
                body.extend_from_slice(&self.bytes);
                Encoding::DELTA_LENGTH_BYTE_ARRAY
            }
            DataType::Float64 => {
                write_split(body, &self.floats);
                Encoding::BYTE_STREAM_SPLIT
            }
            DataType::Date32 => {
                body.extend(self.days.iter().flat_map(|day| day.to_le_bytes()));
                Encoding::PLAIN
            }
            DataType::Boolean => {
                let bytes = self.bools.chunks(8);
                body.extend(bytes.map(|bits| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit))));
                Encoding::PLAIN
            }
            DataType::Decimal128(digits, _) if *digits > NARROW_DIGITS => {
                let bytes = (fixed_bytes.max(0) as usize).min(16);
                for value in &self.wide {
                    body.extend_from_slice(&value.to_be_bytes()[16 - bytes..]);
                }
                Encoding::PLAIN
            }
            _ => {
                write_deltas(body, &self.ints);
                Encoding::DELTA_BINARY_PACKED
            }
        }
    }
}

/// BYTE_STREAM_SPLIT: the first bytes of all values, then the second ones, …
fn write_split(body: &mut Vec<u8>, values: &[f64]) {
    for byte in 0..8 {
        body.extend(values.iter().map(|value| value.to_le_bytes()[byte]));
    }
}
