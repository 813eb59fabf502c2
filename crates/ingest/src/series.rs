//! Which points belong to one series.

use xxhash_rust::xxh3::xxh3_128;

use crate::metric_fields::{Kind, MetricFields};
use crate::origin::Origin;

/// Computes the ids of series: hashes of the resource's and the scope's identity, of name, unit, kind, temporality and
/// monotonicity of the metric, and of the point's attributes in any order. Values count by their text. Part of the stored
/// format: the same series has the same id in every version.
#[derive(Debug, Default)]
pub(crate) struct Series {
    scope: u128,
    metric: u128,
    bytes: Vec<u8>,
}

/// An attribute as its columns have it.
type Entry<'a> = (&'a [u8], Option<&'a [u8]>);

impl Series {
    /// The metrics of another scope follow.
    pub(crate) fn begin_scope(&mut self, origin: &Origin<'_>) {
        self.bytes.clear();
        write_entries(&mut self.bytes, origin.resource_entries().collect());
        let (name, version) = origin.scope_identity();
        write_text(&mut self.bytes, name);
        write_text(&mut self.bytes, version);
        write_entries(&mut self.bytes, origin.scope_entries().collect());
        self.scope = xxh3_128(&self.bytes);
    }

    /// The points of another metric follow.
    pub(crate) fn begin_metric(&mut self, kind: Kind, metric: &MetricFields<'_>) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&self.scope.to_le_bytes());
        write_text(&mut self.bytes, metric.name);
        write_text(&mut self.bytes, metric.unit);
        write_text(&mut self.bytes, kind.name().as_bytes());
        self.bytes.extend_from_slice(&metric.temporality.to_le_bytes());
        self.bytes.push(u8::from(metric.monotonic));
        self.metric = xxh3_128(&self.bytes);
    }

    /// The id of the series of a point with these attributes.
    pub(crate) fn id<'e>(&mut self, attributes: impl Iterator<Item = Entry<'e>>) -> u128 {
        self.bytes.clear();
        self.bytes.extend_from_slice(&self.metric.to_le_bytes());
        write_entries(&mut self.bytes, attributes.collect());
        xxh3_128(&self.bytes)
    }
}

fn write_entries(out: &mut Vec<u8>, mut entries: Vec<Entry<'_>>) {
    entries.sort_unstable();
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        write_text(out, key);
        match value {
            Some(value) => write_text(out, value),
            None => out.extend_from_slice(&u64::MAX.to_le_bytes()),
        }
    }
}

fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}
