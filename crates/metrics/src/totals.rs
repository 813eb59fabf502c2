//! What is exact about the values of a histogram: their sum, least and greatest.

use crate::error::{Error, ErrorKind, Result};
use crate::wide::Wide;

/// The most decimal places of a [`Kind::Decimal`].
pub const DECIMAL_SCALE_MAX: u8 = 38;

/// What sort of numbers a histogram holds. Histograms of different kinds do not merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Integers of the unit `10^-scale`; the scale is at most 38.
    Decimal {
        /// Digits behind the point.
        scale: u8,
    },
    /// Doubles.
    Double,
}

impl Kind {
    /// Whole numbers: nanoseconds, tokens.
    pub const INTEGER: Self = Self::Decimal { scale: 0 };
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Decimal { scale: 0 } => f.write_str("integers"),
            Self::Decimal { scale } => write!(f, "decimals of scale {scale}"),
            Self::Double => f.write_str("doubles"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Totals {
    Decimal(DecimalTotals),
    // On the heap, as its sum is long and integers are the rule.
    Double(Box<DoubleTotals>),
}

/// Of integers of one unit. Without values the least is `i128::MAX` and the greatest `i128::MIN`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DecimalTotals {
    pub(crate) scale: u8,
    /// `u64::MAX` values of at most 128 bits need 192.
    pub(crate) sum: Wide<4>,
    pub(crate) min: i128,
    pub(crate) max: i128,
}

/// A sum of doubles in units of `2^-1074`: `u64::MAX` of them need 2,162 bits and a sign, and [`Wide::add_shifted`] room
/// above its largest shift.
pub(crate) type DoubleSum = Wide<36>;

/// Of doubles, `None` where a foreign histogram did not say. Without values the least is `INFINITY`, the greatest
/// `-INFINITY`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DoubleTotals {
    pub(crate) sum: Option<DoubleSum>,
    pub(crate) min: Option<f64>,
    pub(crate) max: Option<f64>,
}

impl Totals {
    pub(crate) fn new(kind: Kind) -> Self {
        match kind {
            Kind::Decimal { scale } => {
                Self::Decimal(DecimalTotals { scale, sum: Wide::ZERO, min: i128::MAX, max: i128::MIN })
            }
            Kind::Double => Self::Double(Box::new(DoubleTotals::EMPTY)),
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Decimal(totals) => Kind::Decimal { scale: totals.scale },
            Self::Double(_) => Kind::Double,
        }
    }

    pub(crate) fn check_same_kind(&self, other: &Self) -> Result<()> {
        let (ours, theirs) = (self.kind(), other.kind());
        if ours != theirs {
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("a histogram of {theirs} does not merge into one of {ours}"),
            ));
        }
        Ok(())
    }

    /// Adds the totals of the other, which is of the same kind.
    pub(crate) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Decimal(ours), Self::Decimal(theirs)) => {
                ours.sum.add(&theirs.sum);
                ours.min = ours.min.min(theirs.min);
                ours.max = ours.max.max(theirs.max);
            }
            (Self::Double(ours), Self::Double(theirs)) => ours.merge(theirs),
            _ => unreachable!("kinds are compared before totals are merged"),
        }
    }
}

impl DecimalTotals {
    #[inline]
    pub(crate) fn add(&mut self, units: i128, weight: u64) {
        match i64::try_from(units) {
            // 64 bits times 64 bits fit 128, and this is how nearly all values are.
            Ok(units) => self.sum.add_i128(i128::from(units) * i128::from(weight)),
            Err(_) => self.sum.add_product(units.unsigned_abs(), weight, 0, units < 0),
        }
        self.min = self.min.min(units);
        self.max = self.max.max(units);
    }
}

impl DoubleTotals {
    pub(crate) const EMPTY: Self =
        Self { sum: Some(Wide::ZERO), min: Some(f64::INFINITY), max: Some(f64::NEG_INFINITY) };

    /// From what a foreign histogram of `count` values says. Numbers that are not finite say nothing.
    pub(crate) fn from_claims(count: u64, sum: Option<f64>, min: Option<f64>, max: Option<f64>) -> Result<Self> {
        // Adding zero turns -0 into 0.
        let claim = |value: Option<f64>| value.filter(|value| value.is_finite()).map(|value| value + 0.0);
        let (sum, min, max) = (claim(sum), claim(min), claim(max));
        if count == 0 {
            return match sum {
                Some(sum) if sum != 0.0 => Err(Error::invalid(format!("a histogram of no values has the sum {sum}"))),
                _ => Ok(Self::EMPTY),
            };
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            return Err(Error::invalid(format!("a histogram has the minimum {min} above the maximum {max}")));
        }
        let exact = |sum: f64| {
            let mut exact = Wide::ZERO;
            exact.add_f64(sum, 1);
            exact
        };
        Ok(Self { sum: sum.map(exact), min, max })
    }

    #[inline]
    pub(crate) fn add(&mut self, value: f64, weight: u64) {
        if let Some(sum) = &mut self.sum {
            sum.add_f64(value, weight);
        }
        self.min = self.min.map(|min| min.min(value));
        self.max = self.max.map(|max| max.max(value));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        match (&mut self.sum, &other.sum) {
            (Some(ours), Some(theirs)) => ours.add(theirs),
            (sum, _) => *sum = None,
        }
        self.min = self.min.zip(other.min).map(|(ours, theirs)| ours.min(theirs));
        self.max = self.max.zip(other.max).map(|(ours, theirs)| ours.max(theirs));
    }

    pub(crate) fn sum_f64(&self) -> Option<f64> {
        self.sum.map(|sum| sum.to_f64(-1074))
    }
}
