//! Seeded randomness: the same seed gives the same traffic.

/// SplitMix64: small, fast, and good enough for traffic that only has to look real.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, but without, 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// From `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.between(0, items.len() as u64 - 1) as usize]
    }

    /// Around `median`, skewed to large values as latencies and sizes are.
    pub(super) fn skewed(&mut self, median: f64, spread: f64) -> f64 {
        let (radius, angle) = ((-2.0 * (1.0 - self.unit()).ln()).sqrt(), std::f64::consts::TAU * self.unit());
        median * (spread * radius * angle.cos()).exp()
    }

    /// Between two events that come `per_second` times a second, in seconds.
    pub(super) fn gap(&mut self, per_second: f64) -> f64 {
        -(1.0 - self.unit()).ln() / per_second
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..N.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(N).collect();
        // All-zero ids are invalid.
        bytes[N - 1] |= 1;
        bytes
    }
}
