//! From and to Prometheus native histograms: the same buckets, counted from the other bound.
//!
//! Prometheus names a bucket by the exponent of its upper bound, OTLP by that of its lower one, so its index is ours plus
//! one. Its schemas are scales. Only integer histograms are read and written; sum and zero bucket mean the same, least and
//! greatest value do not exist there.

use crate::error::{Error, ErrorKind, Result};
use crate::exponential::Foreign;
use crate::histogram::Histogram;

/// The coarsest schema of exponential buckets.
const MIN_SCHEMA: i32 = -4;

/// The finest schema of exponential buckets.
const MAX_SCHEMA: i32 = 8;

/// The numbers of a Prometheus native histogram with integer counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NativeHistogram {
    /// The scale, from -4 to 8.
    pub schema: i32,
    /// The sum of all bucket counts and `zero_count`; NaN observations may add to it.
    pub count: u64,
    /// The sum of all values; NaN where unknown.
    pub sum: f64,
    /// Up to this magnitude values are counted as zeros.
    pub zero_threshold: f64,
    /// How many these are.
    pub zero_count: u64,
    /// Buckets of positive values.
    pub positive: NativeBuckets,
    /// Buckets of negative values, by magnitude.
    pub negative: NativeBuckets,
}

/// Runs of buckets and the differences of their counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NativeBuckets {
    /// Where the buckets lie.
    pub spans: Vec<NativeSpan>,
    /// The first count, then the difference of each to the one before, over all spans.
    pub deltas: Vec<i64>,
}

/// A run of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NativeSpan {
    /// Of the first span the index of its first bucket, of others how many buckets are skipped before it.
    pub offset: i32,
    /// How many buckets it has.
    pub length: u32,
}

impl Histogram {
    /// Takes in a Prometheus native histogram as one of [`Kind::Double`](crate::Kind::Double), without least and greatest
    /// value. Schemas 7 and 8 become scale 6, coarser ones stay. Where the sum is NaN, values beyond those in buckets are
    /// NaN observations and counted apart, as are infinities, which lie in the bucket right beyond all doubles.
    ///
    /// # Errors
    /// Where the counts do not add up, spans and deltas contradict each other, or the schema is none of -4 to 8; custom
    /// bounds (schema -53) are read by [`ExplicitHistogram`](crate::ExplicitHistogram).
    pub fn from_native(native: &NativeHistogram) -> Result<Self> {
        if !(MIN_SCHEMA..=MAX_SCHEMA).contains(&native.schema) {
            let schema = native.schema;
            let message = format!("a native histogram has schema {schema}; exponential ones are -4 to 8");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let positive = native.positive.entries()?;
        let negative = native.negative.entries()?;
        let counts = positive.iter().chain(&negative).map(|&(_, count)| count);
        let held = counts.fold(u128::from(native.zero_count), |sum, count| sum + u128::from(count));
        let held = u64::try_from(held).map_err(|_| Error::too_many())?;
        let nan_count = if native.sum.is_nan() { native.count.saturating_sub(held) } else { 0 };
        let foreign = Foreign {
            scale: native.schema,
            count: native.count - nan_count,
            zero_count: native.zero_count,
            zero_threshold: native.zero_threshold,
            positive: positive.into_iter(),
            negative: negative.into_iter(),
            sum: Some(native.sum),
            min: None,
            max: None,
        };
        let mut histogram = foreign.into_histogram()?;
        histogram.non_finite_count += nan_count;
        Ok(histogram)
    }

    /// The histogram as a Prometheus native one, whose schema is the scale. An unknown sum is NaN. Zeros are treated as by
    /// [`Self::to_exponential`].
    ///
    /// # Errors
    /// Where the scale is below -4, or a count does not fit `i64`.
    pub fn to_native(&self) -> Result<NativeHistogram> {
        if self.scale < MIN_SCHEMA {
            let message = format!("scale {} is coarser than the coarsest schema, {MIN_SCHEMA}", self.scale);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let folded = self.folded();
        Ok(NativeHistogram {
            schema: self.scale,
            count: self.count,
            sum: self.sum().unwrap_or(f64::NAN),
            zero_threshold: folded.zero_threshold,
            zero_count: folded.zero_count,
            positive: NativeBuckets::from_entries(&folded.positive)?,
            negative: NativeBuckets::from_entries(&folded.negative)?,
        })
    }
}

impl NativeBuckets {
    /// Our index and the count of every bucket.
    fn entries(&self) -> Result<Vec<(i64, u64)>> {
        let buckets: u64 = self.spans.iter().map(|span| u64::from(span.length)).sum();
        if buckets != self.deltas.len() as u64 {
            let deltas = self.deltas.len();
            return Err(Error::invalid(format!(
                "a native histogram has spans of {buckets} buckets but {deltas} deltas"
            )));
        }
        let mut entries = Vec::with_capacity(self.deltas.len());
        let mut deltas = self.deltas.iter();
        // No sum of 32-bit offsets and lengths that fit in memory is beyond 64 bits.
        let mut index = -1i64;
        let mut count = 0i64;
        for (place, span) in self.spans.iter().enumerate() {
            if place > 0 && span.offset < 0 {
                return Err(Error::invalid(format!("span {place} of a native histogram goes back by {}", span.offset)));
            }
            index += i64::from(span.offset);
            for delta in deltas.by_ref().take(span.length as usize) {
                count = count.checked_add(*delta).filter(|&count| count >= 0).ok_or_else(|| {
                    Error::invalid(format!("bucket {} of a native histogram has no valid count", index + 1))
                })?;
                entries.push((index, count as u64));
                index += 1;
            }
        }
        Ok(entries)
    }

    fn from_entries(entries: &[(i32, u64)]) -> Result<Self> {
        let mut native = Self::default();
        let mut end = 0;
        let mut before = 0;
        for &(index, count) in entries {
            let index = index + 1;
            match native.spans.last_mut() {
                Some(span) if index == end => span.length += 1,
                _ => native.spans.push(NativeSpan { offset: index - end, length: 1 }),
            }
            end = index + 1;
            let count = i64::try_from(count).map_err(|_| {
                Error::new(ErrorKind::Unsupported, format!("native histograms cannot count {count} values in a bucket"))
            })?;
            native.deltas.push(count - before);
            before = count;
        }
        Ok(native)
    }
}
