//! The signals of OTLP.

/// What a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Spans.
    Traces,
    /// Data points of metrics.
    Metrics,
    /// Log records.
    Logs,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 3] = [Self::Traces, Self::Metrics, Self::Logs];

    /// The signal in lower case, as in the path `/v1/traces`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
            Self::Logs => "logs",
        }
    }

    /// What the items of a request are called, one by one: what partial success counts.
    pub fn items(self) -> &'static str {
        match self {
            Self::Traces => "spans",
            Self::Metrics => "metric_points",
            Self::Logs => "log_records",
        }
    }

    /// The message of a request.
    pub fn request_message(self) -> &'static str {
        match self {
            Self::Traces => "ExportTraceServiceRequest",
            Self::Metrics => "ExportMetricsServiceRequest",
            Self::Logs => "ExportLogsServiceRequest",
        }
    }

    /// The signal's place in [`Signal::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The kind of a frame of the log that holds such a request as protobuf. Part of the stored format.
    pub(crate) fn frame_kind(self) -> u8 {
        match self {
            Self::Traces => 1,
            Self::Metrics => 2,
            Self::Logs => 3,
        }
    }

    /// The signal of a frame of this kind.
    pub(crate) fn of_frame(kind: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.frame_kind() == kind)
    }
}
