//! What a scrape shows, before it is written in one of the formats.

use std::borrow::Cow;
use std::sync::Arc;

use spanlake_metrics::Histogram;

/// A label's name and value.
pub(crate) type Label = (&'static str, String);

/// What sort of numbers a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// All series of one name.
#[derive(Debug)]
pub(crate) struct Family {
    /// A counter's ends in `_total`.
    pub(crate) name: Cow<'static, str>,
    pub(crate) help: Cow<'static, str>,
    pub(crate) kind: Kind,
    pub(crate) series: Vec<Series>,
}

/// One series, or the several that make a histogram.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) labels: Arc<[Label]>,
    pub(crate) value: Value,
}

#[derive(Debug)]
pub(crate) enum Value {
    Number(f64),
    Histogram(Box<HistogramValue>),
}

/// How values were distributed.
#[derive(Debug, Default)]
pub(crate) struct HistogramValue {
    /// Each finite bound, ascending, and how many values are not above it.
    pub(crate) buckets: Vec<(f64, u64)>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
    /// The same values in exponential buckets, where they were counted so too.
    pub(crate) exponential: Option<Histogram>,
}

/// Units that names end in.
const UNITS: [&str; 4] = ["seconds", "bytes", "tokens", "usd"];

impl Family {
    pub(crate) fn new(name: impl Into<Cow<'static, str>>, kind: Kind, help: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), help: help.into(), kind, series: Vec::new() }
    }

    /// The name without `_total`, as OpenMetrics wants it.
    pub(crate) fn base_name(&self) -> &str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(&self.name),
            Kind::Gauge | Kind::Histogram => &self.name,
        }
    }

    /// The unit that the name ends in.
    pub(crate) fn unit(&self) -> Option<&'static str> {
        let (_, last) = self.base_name().rsplit_once('_')?;
        UNITS.into_iter().find(|unit| *unit == last)
    }
}
