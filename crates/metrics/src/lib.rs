//! Mergeable histograms of duration, tokens and cost.
//!
//! **Why it exists.** Percentiles can neither be averaged nor added. This histogram can: counts in buckets of fixed bounds,
//! so that windows, shards and late data add up to what one look at all values would have given. It owns the mathematics:
//! which bucket, which quantile, how wrong at most, and the bytes in a column.
//!
//! **What it must not know.** SQL, Arrow, files, clocks, threads, OTLP's wire: foreign histograms come and go as plain
//! structs.
//!
//! **Invariants.**
//! - Bucket `i` at scale `s` holds `b^i < x <= b^(i+1)` with `b = 2^(2^-s)`, decided exactly. Ours have scale 6; merging
//!   with something coarser leads to the coarser scale.
//! - A histogram is a function of its values: no order of inserts, no grouping of merges changes it, sums of doubles
//!   included, as these are kept to the last bit and rounded when read. (Only downscaling and foreign data lose detail, and
//!   they too give the same whenever they happen.)
//! - Count, sum, least and greatest value are exact. Values that are no finite number are counted apart.
//! - A quantile is within 0.55 % of the value at its rank ([`Histogram::relative_error`]); the first and last are exact.
//! - Equal histograms have equal encodings, and no other bytes are read back.
//! - Nothing panics or wraps around for any input; a failed insert or merge changes nothing.
//!
//! **Units.** The histogram has none: nanoseconds, tokens, or US dollars as decimals of scale 12, as the column says.
//!
//! **Example.**
//! ```
//! use spanlake_metrics::{Histogram, Kind};
//!
//! # fn main() -> spanlake_metrics::Result<()> {
//! let mut morning = Histogram::new(Kind::INTEGER);
//! let mut evening = Histogram::new(Kind::INTEGER);
//! for milliseconds in 1..=900 {
//!     morning.insert_units(milliseconds * 1_000_000, 1)?;
//! }
//! evening.insert_units(2_000_000_000, 100)?;
//!
//! let mut day = Histogram::decode(&morning.encode())?;
//! day.merge(&evening)?;
//! assert_eq!((day.count(), day.sum_units()), (1_000, Some(605_450_000_000)));
//! let p50 = day.quantile(0.5).expect("there are values");
//! assert!((p50 / 500_000_000.0 - 1.0).abs() < 0.0055);
//! assert_eq!(day.quantile(0.99), Some(2_000_000_000.0));
//! # Ok(())
//! # }
//! ```

mod buckets;
mod encode;
mod error;
mod explicit;
mod exponential;
mod histogram;
mod native;
mod read;
mod scale;
mod totals;
mod varint;
mod wide;

#[cfg(test)]
mod tests;

pub use error::{Error, ErrorKind, Result};
pub use explicit::{ExplicitHistogram, ExplicitPoint};
pub use exponential::{ExponentialPoint, OffsetCounts};
pub use histogram::Histogram;
pub use native::{NativeBuckets, NativeHistogram, NativeSpan};
pub use read::Bucket;
pub use scale::{MAX_SCALE, MIN_SCALE};
pub use totals::{DECIMAL_SCALE_MAX, Kind};
