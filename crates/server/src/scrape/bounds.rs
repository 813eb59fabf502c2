//! Bounds of classic histograms. Those of durations and tokens are the ones that the OpenTelemetry conventions advise for
//! `gen_ai.client.operation.duration`, `gen_ai.server.time_to_first_token` and `gen_ai.client.token.usage`.

/// Decimal places of nanoseconds in seconds.
pub(crate) const SECONDS_PLACES: u8 = 9;

/// Decimal places of money.
pub(crate) const USD_PLACES: u8 = 12;

const MS: i64 = 1_000_000;

/// Durations, in nanoseconds: 10 ms to 82 s.
pub(crate) const DURATION_NS: &[i64] = &[
    10 * MS,
    20 * MS,
    40 * MS,
    80 * MS,
    160 * MS,
    320 * MS,
    640 * MS,
    1_280 * MS,
    2_560 * MS,
    5_120 * MS,
    10_240 * MS,
    20_480 * MS,
    40_960 * MS,
    81_920 * MS,
];

/// Times to the first token, in nanoseconds: 1 ms to 10 s.
pub(crate) const FIRST_TOKEN_NS: &[i64] = &[
    MS,
    5 * MS,
    10 * MS,
    20 * MS,
    40 * MS,
    60 * MS,
    80 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    750 * MS,
    1_000 * MS,
    2_500 * MS,
    5_000 * MS,
    7_500 * MS,
    10_000 * MS,
];

/// Tokens: powers of four.
pub(crate) const TOKENS: &[i64] =
    &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];

/// A hundredth of a cent, in units of 1e-12 US dollars.
const CENTICENT: i64 = 100_000_000;

/// Cost of a call: a hundredth of a cent to 10 dollars.
pub(crate) const USD: &[i64] = &[
    CENTICENT,
    3 * CENTICENT,
    10 * CENTICENT,
    30 * CENTICENT,
    100 * CENTICENT,
    300 * CENTICENT,
    1_000 * CENTICENT,
    3_000 * CENTICENT,
    10_000 * CENTICENT,
    30_000 * CENTICENT,
    100_000 * CENTICENT,
];
