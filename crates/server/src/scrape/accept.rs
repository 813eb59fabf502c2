//! Which format a scraper gets.

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderValue};

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The text format of Prometheus, 0.0.4.
    Text,
    /// OpenMetrics 1.0, text.
    OpenMetrics,
    /// Messages `io.prometheus.client.MetricFamily`, each behind its length.
    Protobuf,
}

/// A quality of `Accept`, in thousandths.
type Quality = u16;

const BEST: Quality = 1_000;

impl Format {
    /// What these headers like best; of equals what stands first. The text format where they ask for nothing that is known.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let offers = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
        let mut best = (Self::Text, 0);
        for (format, quality) in offers.flat_map(|offers| offers.split(',')).filter_map(offer) {
            if quality > best.1 {
                best = (format, quality);
            }
        }
        best.0
    }

    /// Its content type.
    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        })
    }
}

/// The format of one media range, if it is one of ours, and how much it is wanted.
fn offer(range: &str) -> Option<(Format, Quality)> {
    let mut parts = range.split(';').map(str::trim);
    let media_type = parts.next()?.to_ascii_lowercase();
    let parameters: Vec<(String, &str)> = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
        .collect();
    let parameter = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| *value);
    // A parameter that is not given leaves the choice to us.
    let is = |name: &str, ours: &str| parameter(name).is_none_or(|value| value.eq_ignore_ascii_case(ours));
    let format = match media_type.as_str() {
        "application/vnd.google.protobuf"
            if is("proto", "io.prometheus.client.MetricFamily") && is("encoding", "delimited") =>
        {
            Format::Protobuf
        }
        "application/openmetrics-text" if is("version", "1.0.0") => Format::OpenMetrics,
        "text/plain" | "text/*" | "*/*" if is("version", "0.0.4") => Format::Text,
        _ => return None,
    };
    let quality = match parameter("q") {
        None => BEST,
        Some(text) => text.parse::<f64>().map_or(0, |quality| (quality.clamp(0.0, 1.0) * f64::from(BEST)) as Quality),
    };
    Some((format, quality))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(accept: &[&'static str]) -> Format {
        let values = accept.iter().map(|value| (ACCEPT, HeaderValue::from_static(value)));
        Format::accepted(&values.collect())
    }

    #[test]
    fn scrapers_get_the_format_they_like_best() {
        let of_2_42 = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                       text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let of_2_42_native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
                              application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let of_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                    application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                    text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(accepted(&[of_2_42]), Format::OpenMetrics);
        assert_eq!(accepted(&[of_2_42_native]), Format::Protobuf);
        assert_eq!(accepted(&[of_3]), Format::OpenMetrics);
        assert_eq!(
            accepted(&["text/plain;version=0.0.4;q=0.5", "application/openmetrics-text; q=0.6"]),
            Format::OpenMetrics
        );
        assert_eq!(accepted(&["text/plain", "application/openmetrics-text"]), Format::Text);
    }

    #[test]
    fn who_asks_for_nothing_known_gets_text() {
        for accept in [
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=compact-text",
            "application/vnd.google.protobuf;proto=another.Message;encoding=delimited",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=much",
            "application/json",
            ";;,=,q",
            "",
        ] {
            assert_eq!(accepted(&[accept]), Format::Text, "{accept}");
        }
        assert_eq!(accepted(&[]), Format::Text);
    }
}
