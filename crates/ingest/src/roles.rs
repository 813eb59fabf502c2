//! Which spans of a request are the calls, and which tell of calls that others tell of too.
//!
//! The rows of a body are decided from it alone, so that replaying it gives the same: an instrumentation's wrappers, agents and
//! second reports lie in the request of their calls nearly always. What other requests tell of the same traces is settled by
//! [`crate::traces`], with the same rules, and recorded as corrections.

mod body;
#[cfg(test)]
mod tests;

pub(crate) use body::{Roles, Told};

use std::cmp::Reverse;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::price::{Cost, PricedBy};
use crate::rules::Class;

/// A span.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Id {
    /// The halves of the trace id, folded: spans that share nothing else do not share this.
    pub(crate) trace: u64,
    pub(crate) span: u64,
}

/// What a span tells of a call.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) class: Class,
    /// Input and output tokens; `None` where it tells neither.
    pub(crate) usage: Option<(Option<i64>, Option<i64>)>,
    /// Whether it names a model and a provider: a call, where nothing else is known of it.
    pub(crate) names_model: bool,
    pub(crate) failed: bool,
    pub(crate) start_unix_nano: u64,
    pub(crate) end_unix_nano: u64,
    /// The hash of the scope's name; other scopes are other instrumentations.
    pub(crate) scope: u64,
    /// The hash of the provider's id of the answer, or 0.
    pub(crate) response_id: u64,
    /// The models it names, requested and answered: ranges of [`Roles::models`].
    pub(crate) models: [(u32, u32); 2],
    pub(crate) cost: Option<(Cost, PricedBy)>,
}

/// A note and the row it is about.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    pub(crate) id: Id,
    pub(crate) parent: u64,
    batch: u32,
    row: u32,
    /// The trace id's place in [`Told::trace_ids`].
    trace_at: u32,
    pub(crate) note: Note,
}

/// What a span is to the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The call.
    Leaf,
    /// Repeats the usage of calls below it.
    Aggregate,
    /// Tells of a call that another span stands for.
    Duplicate,
    /// No call and no usage.
    None,
}

impl Role {
    /// As the column has it.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Leaf => Some("leaf"),
            Self::Aggregate => Some("aggregate"),
            Self::Duplicate => Some("duplicate"),
            Self::None => None,
        }
    }

    /// Whether spans in this role have a cost.
    pub(crate) fn has_cost(self) -> bool {
        matches!(self, Self::Leaf | Self::Duplicate)
    }
}

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) role: Role,
    /// What an aggregate tells beyond the calls below it.
    pub(crate) unattributed_tokens: Option<i64>,
}

/// Spans, as far as their roles depend on each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// Every span and its parent.
    pub(crate) parents: Vec<(Id, u64)>,
    pub(crate) noted: Vec<Noted>,
    models: Vec<u8>,
}

/// Ancestors looked at above a call. Deeper nesting than this has no wrapper of this call at its top.
const ANCESTORS_MAX: usize = 128;

type Parents = HashMap<Id, u64, FixedState>;
type ById = HashMap<Id, usize, FixedState>;

/// Siblings a call is compared with. Second reports of a call start next to it.
const SIBLINGS_MAX: usize = 64;

/// A hash that is the same in every process: equal names are all it tells.
pub(crate) fn name_hash(name: &[u8]) -> u64 {
    FixedState::default().hash_one(name)
}

/// Identifiers whose lengths were checked.
pub(crate) fn word(bytes: &[u8]) -> u64 {
    if let Ok(bytes) = bytes.try_into() {
        return u64::from_be_bytes(bytes);
    }
    bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

pub(crate) fn trace_word(trace_id: &[u8]) -> u64 {
    let (high, low) = trace_id.split_at(trace_id.len() / 2);
    word(high).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(low)
}

impl Calls {
    /// A note whose models are kept here.
    fn with_models(&mut self, note: Note, models: [&[u8]; 2]) -> Note {
        let models = models.map(|model| {
            let start = self.models.len() as u32;
            self.models.extend_from_slice(model);
            (start, self.models.len() as u32)
        });
        Note { models, ..note }
    }

    /// Adds a span of a trace, as it was read back from its row.
    pub(crate) fn recall(&mut self, id: Id, parent: u64, models: [&[u8]; 2], note: Option<Note>) {
        self.parents.push((id, parent));
        if let Some(note) = note {
            let note = self.with_models(note, models);
            self.noted.push(Noted { id, parent, batch: 0, row: 0, trace_at: 0, note });
        }
    }

    /// Adds a note of others.
    pub(crate) fn adopt(&mut self, others: &Self, noted: &Noted) {
        let models = noted.note.models.map(|(start, end)| &others.models[start as usize..end as usize]);
        let note = self.with_models(noted.note.clone(), models);
        self.noted.push(Noted { note, ..noted.clone() });
    }

    /// Bytes of memory, about.
    pub(crate) fn bytes(&self) -> usize {
        self.parents.len() * size_of::<(Id, u64)>() + self.noted.len() * size_of::<Noted>() + self.models.len()
    }

    /// What became of every note, in their order. It does not depend on that order, but that of equal tellings of one span
    /// the first stands for it.
    pub(crate) fn settle(&self) -> Vec<Settled> {
        self.settle_by_id(&self.by_id())
    }

    /// The first note of each span.
    fn by_id(&self) -> ById {
        let mut first = ById::with_capacity_and_hasher(self.noted.len(), FixedState::default());
        for (at, noted) in self.noted.iter().enumerate() {
            first.entry(noted.id).or_insert(at);
        }
        first
    }

    fn settle_by_id(&self, first: &ById) -> Vec<Settled> {
        let mut roles: Vec<Role> = self.noted.iter().map(|noted| noted.note.alone()).collect();
        let mut unattributed = None;
        if self.noted.len() > 1 {
            if first.len() < self.noted.len() {
                self.settle_repeated(&mut roles);
            }
            let parents = self.parents_by_id();
            self.settle_ancestors((&parents, first), &mut roles);
            self.settle_answers(&mut roles);
            // Second reports are by other instrumentations.
            if self.noted.iter().any(|noted| noted.note.scope != self.noted[0].note.scope) {
                self.settle_siblings(&mut roles);
                self.settle_half_told(&mut roles);
            }
            unattributed = self.unattributed(&parents, &roles);
        }
        let settled = roles.into_iter().enumerate().map(|(at, role)| Settled {
            role,
            unattributed_tokens: unattributed.as_ref().and_then(|tokens| tokens.get(&at).copied()),
        });
        settled.collect()
    }

    /// Which telling of its span each note is; `None` where all spans are told once.
    fn tellings(&self, first: &ById) -> Option<Vec<u32>> {
        if first.len() == self.noted.len() {
            return None;
        }
        let mut told: HashMap<Id, u32, FixedState> = HashMap::default();
        let tellings = self.noted.iter().map(|noted| {
            let next = told.entry(noted.id).or_insert(0);
            *next += 1;
            *next - 1
        });
        Some(tellings.collect())
    }

    /// The same trace and span id told twice is one call: the telling that knows most stands for it.
    fn settle_repeated(&self, roles: &mut [Role]) {
        let mut best: HashMap<Id, usize, FixedState> =
            HashMap::with_capacity_and_hasher(self.noted.len(), FixedState::default());
        for (at, noted) in self.noted.iter().enumerate().filter(|(at, _)| roles[*at] != Role::None) {
            let known = best.entry(noted.id).or_insert(at);
            if self.knowledge(at) < self.knowledge(*known) {
                *known = at;
            }
        }
        for (at, noted) in self.noted.iter().enumerate() {
            if roles[at] != Role::None && best.get(&noted.id) != Some(&at) {
                roles[at] = Role::Duplicate;
            }
        }
    }

    fn parents_by_id(&self) -> Parents {
        let mut parents = HashMap::with_capacity_and_hasher(self.parents.len(), FixedState::default());
        for &(id, parent) in &self.parents {
            parents.entry(id).or_insert(parent);
        }
        parents
    }

    /// The spans above a span, the nearest first.
    fn ancestors<'p>(&self, parents: &'p Parents, at: usize) -> impl Iterator<Item = Id> + use<'p> {
        let Noted { id, parent, .. } = self.noted[at];
        let nearest = (parent != 0 && parent != id.span).then_some(Id { span: parent, ..id });
        std::iter::successors(nearest, move |above| {
            let next = *parents.get(above)?;
            (next != 0 && next != id.span).then_some(Id { span: next, ..id })
        })
        .take(ANCESTORS_MAX)
    }

    /// Whether a span that is not known may lie between two of the calls: the chains above them end at different spans, one of
    /// which is not known.
    pub(crate) fn is_torn(&self) -> bool {
        let parents = self.parents_by_id();
        let end = |at: usize| {
            let noted = &self.noted[at];
            let last = self.ancestors(&parents, at).last().unwrap_or(noted.id);
            // Above a span that is known nothing is missing where it has no parent.
            (last, parents.get(&last).is_none())
        };
        let mut ends = (0..self.noted.len()).map(end);
        let Some(first) = ends.next() else { return false };
        let (mut differ, mut is_missing) = (false, first.1);
        for other in ends {
            differ |= other.0 != first.0;
            is_missing |= other.1;
        }
        differ && is_missing
    }

    /// By note: the tokens that an aggregate tells beyond those of the calls below it, where it tells more.
    fn unattributed(&self, parents: &Parents, roles: &[Role]) -> Option<HashMap<usize, i64, FixedState>> {
        let mut above: HashMap<Id, usize, FixedState> = HashMap::default();
        for (at, noted) in self.noted.iter().enumerate() {
            if roles[at] == Role::Aggregate && noted.note.usage.is_some() {
                above.insert(noted.id, at);
            }
        }
        if above.is_empty() {
            return None;
        }
        let mut below: HashMap<usize, i64, FixedState> = HashMap::default();
        for at in (0..self.noted.len()).filter(|&at| roles[at] == Role::Leaf) {
            let Some(tokens) = self.noted[at].note.tokens() else { continue };
            for ancestor in self.ancestors(parents, at).filter_map(|id| above.get(&id)) {
                let sum = below.entry(*ancestor).or_insert(0);
                *sum = sum.saturating_add(tokens);
            }
        }
        below.retain(|at, sum| {
            *sum = self.noted[*at].note.tokens().unwrap_or(0).saturating_sub(*sum);
            *sum > 0
        });
        Some(below)
    }

    /// A call above a call is a wrapper that tells of it again, unless it is plainly another call.
    fn settle_ancestors(&self, (parents, first): (&Parents, &ById), roles: &mut [Role]) {
        let mut pairs = self.nested(parents, first, roles);
        // The deepest first: whether a wrapper repeats what is below depends on what that turned out to be.
        let mut depths = vec![0u32; self.noted.len()];
        for &(_, below) in &pairs {
            depths[below] += 1;
        }
        pairs.sort_by_key(|&(above, below)| (Reverse(depths[above]), above, below));
        for family in pairs.chunk_by(|a, b| a.0 == b.0) {
            self.settle_wrapper(family[0].0, family.iter().map(|pair| pair.1), roles);
        }
    }

    /// Pairs of calls, one above the other.
    fn nested(&self, parents: &Parents, first: &ById, roles: &[Role]) -> Vec<(usize, usize)> {
        let calls = || (0..self.noted.len()).filter(|&at| roles[at] == Role::Leaf);
        // Of a span told twice the first telling need not be the one that stands for it.
        let standing = (first.len() < self.noted.len()).then(|| {
            let mut standing = ById::default();
            for at in calls() {
                standing.entry(self.noted[at].id).or_insert(at);
            }
            standing
        });
        let noted = standing.as_ref().unwrap_or(first);
        let mut pairs = Vec::new();
        for below in calls() {
            let above = self.ancestors(parents, below).filter_map(|id| noted.get(&id).copied());
            pairs.extend(above.filter(|&above| roles[above] == Role::Leaf).map(|above| (above, below)));
        }
        pairs
    }

    fn settle_wrapper(&self, above: usize, below: impl Iterator<Item = usize>, roles: &mut [Role]) {
        let wrapper = &self.noted[above].note;
        let below: Vec<usize> =
            below.filter(|&at| roles[at] == Role::Leaf && self.repeats(wrapper, &self.noted[at].note)).collect();
        if below.is_empty() || roles[above] != Role::Leaf {
            return;
        }
        let usage_below = below.iter().any(|&at| self.noted[at].note.usage.is_some());
        if wrapper.usage.is_none() && wrapper.class != Class::Call {
            roles[above] = Role::None;
        } else if usage_below || wrapper.usage.is_none() {
            roles[above] = Role::Aggregate;
        } else {
            // Only the wrapper knows the usage, so it stands for the call; what failed below it failed nonetheless.
            for at in below {
                if !self.noted[at].note.failed {
                    roles[at] = Role::Duplicate;
                }
            }
        }
    }

    /// Whether a span above a call tells of that call, not of one of its own.
    fn repeats(&self, wrapper: &Note, call: &Note) -> bool {
        wrapper.class != Class::Call
            || wrapper.usage.is_none()
            || wrapper.usage == call.usage
            || wrapper.response_id != 0 && wrapper.response_id == call.response_id
            || self.same_model(wrapper, call)
    }

    /// Whether two notes can be of one model: they name the same, one name starts with the other, or one names none.
    fn same_model(&self, one: &Note, other: &Note) -> bool {
        let names = |note: &Note| {
            let names = note.models.map(|(start, end)| &self.models[start as usize..end as usize]);
            names.map(|name| name.rsplit(|&byte| byte == b'/').next().unwrap_or(name))
        };
        let (ones, others) = (names(one), names(other));
        let told = |names: &[&[u8]; 2]| names.iter().any(|name| !name.is_empty());
        let same = |a: &[u8], b: &[u8]| !a.is_empty() && !b.is_empty() && (a.starts_with(b) || b.starts_with(a));
        !told(&ones) || !told(&others) || ones.iter().any(|a| others.iter().any(|b| same(a, b)))
    }

    /// As [`Calls::settle_siblings`], where one of the two tells the output and no input: some instrumentations see no more of
    /// a stream.
    fn settle_half_told(&self, roles: &mut [Role]) {
        let told = |at: usize| self.noted[at].note.usage.unwrap_or_default();
        let tells_input = |at: usize| told(at).0.is_some_and(|input| input > 0);
        let is_call = |at: &usize| roles[*at] == Role::Leaf && told(*at).1.is_some_and(|output| output > 0);
        let mut calls: Vec<usize> = (0..self.noted.len()).filter(is_call).collect();
        let family = |at: usize| (self.noted[at].id.trace, self.noted[at].parent, told(at).1);
        calls.sort_by_key(|&at| (family(at), self.noted[at].note.start_unix_nano, self.noted[at].id.span));
        for siblings in calls.chunk_by(|&a, &b| family(a) == family(b)) {
            let mut taken: HashSet<(usize, u64), FixedState> = HashSet::default();
            for &half in siblings.iter().filter(|&&at| !tells_input(at)) {
                let scope = self.noted[half].note.scope;
                let mut whole = siblings.iter().filter(|&&at| tells_input(at)).take(SIBLINGS_MAX);
                if let Some(&whole) = whole.find(|&&at| !taken.contains(&(at, scope)) && self.are_one_call(at, half)) {
                    taken.insert((whole, scope));
                    roles[half] = Role::Duplicate;
                }
            }
        }
    }

    /// Of several calls of a trace with one answer, one is the call.
    fn settle_answers(&self, roles: &mut [Role]) {
        let mut best: HashMap<(u64, u64), usize, FixedState> = HashMap::default();
        for at in 0..self.noted.len() {
            let Noted { id, note, .. } = &self.noted[at];
            if roles[at] != Role::Leaf || note.response_id == 0 {
                continue;
            }
            let known = best.entry((id.trace, note.response_id)).or_insert(at);
            if *known != at {
                let (kept, other) = if self.is_better(at, *known) { (at, *known) } else { (*known, at) };
                roles[other] = Role::Duplicate;
                *known = kept;
            }
        }
    }

    /// A sibling by another instrumentation, with the same model and usage at the same time, tells of the same call.
    fn settle_siblings(&self, roles: &mut [Role]) {
        let mut calls: Vec<usize> = (0..self.noted.len()).filter(|&at| roles[at] == Role::Leaf).collect();
        let family = |at: usize| (self.noted[at].id.trace, self.noted[at].parent, self.noted[at].note.usage);
        calls.sort_by_key(|&at| (family(at), self.noted[at].note.start_unix_nano, self.noted[at].id.span));
        for siblings in calls.chunk_by(|&a, &b| family(a) == family(b)) {
            // Each call has one second report at most by each other instrumentation.
            let mut taken: HashSet<(usize, u64), FixedState> = HashSet::default();
            for (place, &one) in siblings.iter().enumerate() {
                for &other in siblings[place + 1..].iter().take(SIBLINGS_MAX) {
                    if roles[one] != Role::Leaf {
                        break;
                    }
                    let (kept, second) = if self.is_better(other, one) { (other, one) } else { (one, other) };
                    let free = roles[other] == Role::Leaf && !taken.contains(&(kept, self.noted[second].note.scope));
                    if free && self.are_one_call(one, other) {
                        taken.insert((kept, self.noted[second].note.scope));
                        roles[second] = Role::Duplicate;
                    }
                }
            }
        }
    }

    fn are_one_call(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.noted[one].note, &self.noted[other].note);
        let at_once = one.start_unix_nano < other.end_unix_nano && other.start_unix_nano < one.end_unix_nano;
        let tells_enough = one.usage.is_some() || one.failed && other.failed;
        let other_answer = one.response_id != 0 && other.response_id != 0 && one.response_id != other.response_id;
        one.scope != other.scope && at_once && tells_enough && !other_answer && self.same_model(one, other)
    }

    /// Which of two reports stands for the call. It must not depend on the order in the body.
    fn is_better(&self, one: usize, other: usize) -> bool {
        let rank = |at: usize| (self.knowledge(at), self.noted[at].note.start_unix_nano, self.noted[at].id.span);
        rank(one) < rank(other)
    }

    /// How much a note knows of its call; less is more.
    fn knowledge(&self, at: usize) -> (bool, bool) {
        let note = &self.noted[at].note;
        (note.usage.is_none(), !matches!(note.cost, Some((Cost::Usd(_), _))))
    }
}

impl Note {
    /// All tokens, where it tells any.
    fn tokens(&self) -> Option<i64> {
        let (input, output) = self.usage?;
        Some(input.unwrap_or(0).saturating_add(output.unwrap_or(0)))
    }

    /// The role of a span that no other span tells anything of.
    fn alone(&self) -> Role {
        match (self.class, self.usage) {
            (Class::Part, Some(_)) => Role::Aggregate,
            (Class::Part, None) => Role::None,
            (Class::Call, _) | (Class::Unknown, Some(_)) => Role::Leaf,
            (Class::Unknown, None) if self.names_model => Role::Leaf,
            (Class::Unknown, None) => Role::None,
        }
    }
}

impl Default for Note {
    fn default() -> Self {
        Self {
            class: Class::Unknown,
            usage: None,
            names_model: false,
            failed: false,
            start_unix_nano: 0,
            end_unix_nano: 0,
            scope: 0,
            response_id: 0,
            models: [(0, 0); 2],
            cost: None,
        }
    }
}
