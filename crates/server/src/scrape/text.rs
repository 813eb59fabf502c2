//! The text formats: of Prometheus (0.0.4) and OpenMetrics (1.0).
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>, <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::fmt::Write;

use crate::scrape::page::{Family, HistogramValue, Kind, Label, Value};

/// Which text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    Prometheus,
    OpenMetrics,
}

/// The page as text.
pub(crate) fn write(families: &[Family], flavour: Flavour) -> String {
    let mut page = Page { text: String::new(), flavour };
    families.iter().for_each(|family| page.family(family));
    if flavour == Flavour::OpenMetrics {
        page.text.push_str("# EOF\n");
    }
    page.text
}

struct Page {
    text: String,
    flavour: Flavour,
}

impl Page {
    fn family(&mut self, family: &Family) {
        let is_open = self.flavour == Flavour::OpenMetrics;
        let name = if is_open { family.base_name() } else { &family.name };
        let _ = write!(self.text, "# HELP {name} ");
        // Quotation marks are escaped in the one format and must not be in the other.
        escape(&mut self.text, &family.help, is_open);
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "\n# TYPE {name} {kind}");
        if let Some(unit) = family.unit().filter(|_| is_open) {
            let _ = writeln!(self.text, "# UNIT {name} {unit}");
        }
        for series in &family.series {
            match &series.value {
                Value::Number(value) => self.sample((&family.name, ""), &series.labels, None, *value),
                Value::Histogram(histogram) => self.histogram(&family.name, &series.labels, histogram),
            }
        }
    }

    fn histogram(&mut self, name: &str, labels: &[Label], histogram: &HistogramValue) {
        for (bound, count) in &histogram.buckets {
            let bound = bound_text(*bound, self.flavour);
            self.sample((name, "_bucket"), labels, Some(&bound), *count as f64);
        }
        self.sample((name, "_bucket"), labels, Some("+Inf"), histogram.count as f64);
        self.sample((name, "_sum"), labels, None, histogram.sum);
        self.sample((name, "_count"), labels, None, histogram.count as f64);
    }

    fn sample(&mut self, (name, suffix): (&str, &str), labels: &[Label], bound: Option<&str>, value: f64) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        let labels = labels.iter().map(|(name, value)| (*name, value.as_str())).chain(bound.map(|bound| ("le", bound)));
        let mut before = '{';
        for (label, content) in labels {
            let _ = write!(self.text, "{before}{label}=\"");
            escape(&mut self.text, content, true);
            self.text.push('"');
            before = ',';
        }
        let _ = writeln!(self.text, "{} {}", if before == '{' { "" } else { "}" }, number(value));
    }
}

fn escape(text: &mut String, content: &str, quotes_too: bool) {
    for character in content.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '"' if quotes_too => text.push_str("\\\""),
            _ => text.push(character),
        }
    }
}

fn number(value: f64) -> String {
    match value {
        f64::INFINITY => "+Inf".to_owned(),
        f64::NEG_INFINITY => "-Inf".to_owned(),
        _ => value.to_string(),
    }
}

/// A bound as Go's client writes it, and Prometheus itself for the protobuf format: as they are labels, one bound has to be one text.
/// OpenMetrics wants a point in it, so there it is "1.0".
fn bound_text(bound: f64, flavour: Flavour) -> String {
    let scientific = format!("{bound:e}");
    let (digits, exponent) = scientific.split_once('e').expect("invariant: it is written with an exponent");
    let exponent: i32 = exponent.parse().expect("invariant: the exponent is an integer");
    if bound != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    match flavour {
        Flavour::Prometheus => bound.to_string(),
        Flavour::OpenMetrics => format!("{bound:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_prometheus_writes_them() {
        for (bound, text, open) in [
            (1.0, "1", "1.0"),
            (0.25, "0.25", "0.25"),
            (0.0001, "0.0001", "0.0001"),
            (0.00001, "1e-05", "1e-05"),
            (262_144.0, "262144", "262144.0"),
            (1_048_576.0, "1.048576e+06", "1.048576e+06"),
            (1e21, "1e+21", "1e+21"),
            (0.0, "0", "0.0"),
        ] {
            assert_eq!(bound_text(bound, Flavour::Prometheus), text);
            assert_eq!(bound_text(bound, Flavour::OpenMetrics), open);
        }
    }
}
