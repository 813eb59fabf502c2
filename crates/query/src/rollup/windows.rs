use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Microseconds of a UTC day.
pub(super) const DAY_MICROS: i64 = 86_400_000_000;

/// The UTC day, in days since 1970-01-01, of a time in microseconds.
pub(super) fn day_of(micros: i64) -> i32 {
    i32::try_from(micros.div_euclid(DAY_MICROS)).expect("microseconds of an i64 span fewer days than an i32 counts")
}

/// Midnight at which a day starts, in microseconds.
pub(super) fn start_of(day: i32) -> i64 {
    i64::from(day) * DAY_MICROS
}

/// Windows to compute anew: their starts, by UTC day. A window never crosses midnight, because its length divides a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirtyWindows {
    window_micros: i64,
    days: BTreeMap<i32, BTreeSet<i64>>,
}

impl DirtyWindows {
    /// None yet. The length of a window must divide a day.
    pub(super) fn new(window_micros: i64) -> Self {
        assert!(window_micros > 0 && DAY_MICROS % window_micros == 0, "a window of {window_micros} µs divides no day");
        Self { window_micros, days: BTreeMap::new() }
    }

    /// Marks the window that holds a time.
    pub(super) fn mark(&mut self, micros: i64) {
        let start = micros.div_euclid(self.window_micros) * self.window_micros;
        self.days.entry(day_of(start)).or_default().insert(start);
    }

    /// Marks every window of a day.
    pub(super) fn mark_day(&mut self, day: i32) {
        let starts = (0..DAY_MICROS / self.window_micros).map(|index| start_of(day) + index * self.window_micros);
        self.days.entry(day).or_default().extend(starts);
    }

    /// The days with a dirty window, in order.
    pub(super) fn days(&self) -> impl Iterator<Item = i32> {
        self.days.keys().copied()
    }

    /// Starts of the dirty windows of a day.
    pub(super) fn starts(&self, day: i32) -> &BTreeSet<i64> {
        static NONE: BTreeSet<i64> = BTreeSet::new();
        self.days.get(&day).unwrap_or(&NONE)
    }

    /// Half-open ranges that hold exactly the dirty windows of a day, as few as possible.
    pub(super) fn ranges(&self, day: i32) -> Vec<Range<i64>> {
        let mut ranges: Vec<Range<i64>> = Vec::new();
        for &start in self.starts(day) {
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = start + self.window_micros,
                _ => ranges.push(start..start + self.window_micros),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn collect(dirty: &DirtyWindows) -> Vec<(i32, Vec<i64>)> {
        dirty.days().map(|day| (day, dirty.starts(day).iter().copied().collect())).collect()
    }

    #[test]
    fn a_time_marks_the_window_that_holds_it_before_1970_too() {
        let mut dirty = DirtyWindows::new(HOUR);
        dirty.mark(2 * HOUR - 1);
        dirty.mark(HOUR);
        dirty.mark(-1);
        assert_eq!(collect(&dirty), vec![(-1, vec![-HOUR]), (0, vec![HOUR])]);
    }

    #[test]
    fn a_marked_day_has_all_its_windows_and_no_other() {
        let mut dirty = DirtyWindows::new(HOUR);
        dirty.mark_day(-1);
        dirty.mark(start_of(-1));
        let days = collect(&dirty);
        assert_eq!(days.len(), 1);
        assert_eq!(days[0].1, (-24..0).map(|hour| hour * HOUR).collect::<Vec<_>>());
    }

    #[test]
    fn neighbouring_windows_join_to_one_range() {
        let mut dirty = DirtyWindows::new(HOUR);
        for hour in [6, 0, 3, 1, 5, 24] {
            dirty.mark(hour * HOUR);
        }
        assert_eq!(dirty.ranges(0), vec![0..2 * HOUR, 3 * HOUR..4 * HOUR, 5 * HOUR..7 * HOUR]);
        assert_eq!(dirty.ranges(1), vec![24 * HOUR..25 * HOUR]);
        assert!(dirty.ranges(2).is_empty());
    }

    #[test]
    #[should_panic(expected = "divides no day")]
    fn a_window_that_divides_no_day_is_refused() {
        DirtyWindows::new(7 * HOUR);
    }
}
