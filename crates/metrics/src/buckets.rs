//! Counts by bucket index.
//!
//! Few or scattered buckets are a sorted list; many close ones a window of counters, which takes at most four times the
//! memory and is reached without a search. Which of the two it is never shows outside.

/// From this many buckets on a window may pay.
const WINDOW_BUCKETS_MIN: usize = 32;

/// A window has at most so many counters for each populated bucket.
const WINDOW_SPARSENESS_MAX: usize = 8;

/// A window grows by so many counters beyond the new one.
const WINDOW_SLACK: i32 = 32;

/// Counts above zero by index. The caller sees to it that their sum fits `u64`.
#[derive(Clone, Debug)]
pub(crate) enum Buckets {
    /// Strictly ascending by index, no count is zero.
    Sparse(Vec<(i32, u64)>),
    /// A counter for each index from `first` on.
    Window { first: i32, populated: usize, counts: Vec<u64> },
}

impl Buckets {
    pub(crate) const EMPTY: Self = Self::Sparse(Vec::new());

    /// From a strictly ascending list without zeros, in the form that is best for more to come.
    pub(crate) fn from_sorted(entries: Vec<(i32, u64)>) -> Self {
        debug_assert!(entries.is_sorted_by(|left, right| left.0 < right.0), "indexes ascend");
        debug_assert!(entries.iter().all(|&(_, count)| count > 0), "only populated buckets are kept");
        let (Some(&(first, _)), Some(&(last, _))) = (entries.first(), entries.last()) else { return Self::EMPTY };
        if entries.len() < WINDOW_BUCKETS_MIN || span(first, last) > WINDOW_SPARSENESS_MAX * entries.len() {
            return Self::Sparse(entries);
        }
        let mut counts = vec![0; span(first, last)];
        for &(index, count) in &entries {
            counts[index.wrapping_sub(first) as usize] = count;
        }
        Self::Window { first, populated: entries.len(), counts }
    }

    /// Adds a count above zero to a bucket.
    #[inline]
    pub(crate) fn add(&mut self, index: i32, count: u64) {
        match self {
            Self::Window { first, populated, counts } => {
                // An index before the window wraps to one far beyond it.
                if let Some(slot) = counts.get_mut(index.wrapping_sub(*first) as u32 as usize) {
                    if *slot == 0 {
                        *populated += 1;
                    }
                    *slot += count;
                    return;
                }
            }
            Self::Sparse(entries) => {
                if let Ok(at) = entries.binary_search_by_key(&index, |entry| entry.0) {
                    entries[at].1 += count;
                    return;
                }
            }
        }
        self.add_new(index, count);
    }

    /// Adds one to each bucket named: the fast way for many.
    #[inline]
    pub(crate) fn add_each(&mut self, mut indexes: impl Iterator<Item = i32>) {
        // What misses the window moves it or ends it, so that it is looked up again.
        while let Self::Window { first, populated, counts } = self {
            let start = *first;
            let missed = indexes.find(|&index| match counts.get_mut(index.wrapping_sub(start) as u32 as usize) {
                Some(slot) => {
                    *populated += usize::from(*slot == 0);
                    *slot += 1;
                    false
                }
                None => true,
            });
            match missed {
                Some(index) => self.add_new(index, 1),
                None => return,
            }
        }
        indexes.for_each(|index| self.add(index, 1));
    }

    #[cold]
    fn add_new(&mut self, index: i32, count: u64) {
        match self {
            Self::Sparse(entries) => {
                let at = entries.partition_point(|entry| entry.0 < index);
                entries.insert(at, (index, count));
                if entries.len() >= WINDOW_BUCKETS_MIN {
                    *self = Self::from_sorted(std::mem::take(entries));
                }
            }
            Self::Window { first, populated, counts } => {
                let last = *first + (counts.len() as i32 - 1);
                if span(index.min(*first), index.max(last)) > WINDOW_SPARSENESS_MAX * (*populated + 1) {
                    let mut entries: Vec<_> = self.iter().collect();
                    let at = entries.partition_point(|entry| entry.0 < index);
                    entries.insert(at, (index, count));
                    *self = Self::from_sorted(entries);
                    return;
                }
                if index < *first {
                    let start = index - WINDOW_SLACK;
                    counts.splice(..0, std::iter::repeat_n(0, (*first - start) as usize));
                    *first = start;
                } else {
                    counts.resize((index - *first + 1 + WINDOW_SLACK) as usize, 0);
                }
                counts[(index - *first) as usize] = count;
                *populated += 1;
            }
        }
    }

    /// Index and count of every populated bucket, ascending.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (i32, u64)> + '_ {
        let (entries, first, counts) = match self {
            Self::Sparse(entries) => (entries.as_slice(), 0, &[][..]),
            Self::Window { first, counts, .. } => (&[][..], *first, counts.as_slice()),
        };
        let window = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        entries.iter().copied().chain(window.map(move |(place, &count)| (first + place as i32, count)))
    }

    /// How many buckets are populated.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Sparse(entries) => entries.len(),
            Self::Window { populated, .. } => *populated,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn get(&self, index: i32) -> u64 {
        match self {
            Self::Sparse(entries) => {
                entries.binary_search_by_key(&index, |entry| entry.0).map_or(0, |at| entries[at].1)
            }
            Self::Window { first, counts, .. } => {
                counts.get(index.wrapping_sub(*first) as u32 as usize).copied().unwrap_or(0)
            }
        }
    }

    /// The sum of all counts.
    pub(crate) fn total(&self) -> u64 {
        match self {
            Self::Sparse(entries) => entries.iter().map(|entry| entry.1).sum(),
            Self::Window { counts, .. } => counts.iter().sum(),
        }
    }

    /// The bucket in which the counts from the first one on reach the rank, which is from 1 to the total.
    pub(crate) fn at_rank(&self, rank: u64) -> Option<i32> {
        let mut seen = 0;
        let mut reaches = |count: u64| {
            seen += count;
            seen >= rank
        };
        match self {
            Self::Sparse(entries) => entries.iter().find(|entry| reaches(entry.1)).map(|entry| entry.0),
            Self::Window { first, counts, .. } => {
                counts.iter().position(|&count| reaches(count)).map(|place| first + place as i32)
            }
        }
    }

    /// Adds all counts of the other.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        // A list made anew would cost more than a few single ones.
        if other.len() * 8 <= self.len() {
            other.iter().for_each(|(index, count)| self.add(index, count));
            return;
        }
        if let Self::Window { first, counts, .. } = self {
            let window = i64::from(*first)..i64::from(*first) + counts.len() as i64;
            let mut ends = [other.iter().next(), other.iter().next_back()].into_iter().flatten();
            if ends.all(|(index, _)| window.contains(&i64::from(index))) {
                other.iter().for_each(|(index, count)| self.add(index, count));
                return;
            }
        }
        let mut merged: Vec<(i32, u64)> = Vec::with_capacity(self.len() + other.len());
        let mut right = other.iter().peekable();
        for (index, count) in self.iter() {
            while let Some(entry) = right.next_if(|entry| entry.0 < index) {
                merged.push(entry);
            }
            let more = right.next_if(|entry| entry.0 == index).map_or(0, |entry| entry.1);
            merged.push((index, count + more));
        }
        merged.extend(right);
        *self = Self::from_sorted(merged);
    }

    /// The same counts with every index shifted right, which is what a coarser scale does.
    pub(crate) fn downscaled(&self, shift: i32) -> Self {
        let mut coarser: Vec<(i32, u64)> = Vec::with_capacity(self.len());
        for (index, count) in self.iter() {
            match coarser.last_mut() {
                Some(last) if last.0 == index >> shift => last.1 += count,
                _ => coarser.push((index >> shift, count)),
            }
        }
        Self::from_sorted(coarser)
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        match self {
            Self::Sparse(entries) => entries.capacity() * size_of::<(i32, u64)>(),
            Self::Window { counts, .. } => counts.capacity() * size_of::<u64>(),
        }
    }
}

impl PartialEq for Buckets {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

/// How many indexes there are from the first to the last.
fn span(first: i32, last: i32) -> usize {
    (i64::from(last) - i64::from(first) + 1) as usize
}
