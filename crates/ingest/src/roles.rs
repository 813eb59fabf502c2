//! Which spans of a request are the calls, and which tell of calls that others tell of too.
//!
//! Decided from one body alone, so that replaying it gives the same: an instrumentation's wrappers, agents and second
//! reports lie in the request of their calls nearly always. What another request tells of the same trace is for a
//! later pass over what is stored.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};

use crate::price::{Cost, PricedBy, Pricer};
use crate::rules::Class;
use crate::span_columns::{SpanColumns, slot};

/// A span among those of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Id {
    /// The halves of the trace id, folded: spans that share nothing else do not share this.
    trace: u64,
    span: u64,
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
#[derive(Debug)]
struct Noted {
    id: Id,
    parent: u64,
    batch: u32,
    row: u32,
    note: Note,
}

/// What a span is to the totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The call.
    Leaf,
    /// Repeats the usage of calls below it.
    Aggregate,
    /// Tells of a call that another span stands for.
    Duplicate,
    /// No call and no usage.
    None,
}

/// A settled row.
#[derive(Debug)]
struct Settled {
    batch: usize,
    row: usize,
    role: Role,
    cost: Option<(Cost, PricedBy)>,
}

/// The spans of a body, as far as their roles depend on each other.
#[derive(Debug, Default)]
pub(crate) struct Roles {
    /// Every span and its parent.
    parents: Vec<(Id, u64)>,
    noted: Vec<Noted>,
    models: Vec<u8>,
}

/// Ancestors looked at above a call. Deeper nesting than this has no wrapper of this call at its top.
const ANCESTORS_MAX: usize = 128;

/// Siblings a call is compared with. Second reports of a call start next to it.
const SIBLINGS_MAX: usize = 64;

/// A hash that is the same in every process: equal names are all it tells.
pub(crate) fn name_hash(name: &[u8]) -> u64 {
    FixedState::default().hash_one(name)
}

/// Identifiers whose lengths were checked.
fn word(bytes: &[u8]) -> u64 {
    if let Ok(bytes) = bytes.try_into() {
        return u64::from_be_bytes(bytes);
    }
    bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

fn trace_word(trace_id: &[u8]) -> u64 {
    let (high, low) = trace_id.split_at(trace_id.len() / 2);
    word(high).rotate_left(32) ^ word(low)
}

impl Roles {
    /// Notes that a span is there.
    #[inline]
    pub(crate) fn span(&mut self, trace_id: &[u8], span_id: &[u8], parent_span_id: &[u8]) {
        let id = Id { trace: trace_word(trace_id), span: word(span_id) };
        self.parents.push((id, if parent_span_id.len() == 8 { word(parent_span_id) } else { 0 }));
    }

    /// Notes what the last span tells of a call, and its place: the number of its batch, and its row there.
    pub(crate) fn note(&mut self, place: (usize, usize), models: [&[u8]; 2], note: Note) {
        let Some(&(id, parent)) = self.parents.last() else { return };
        let models = models.map(|model| {
            let start = self.models.len() as u32;
            self.models.extend_from_slice(model);
            (start, self.models.len() as u32)
        });
        let note = Note { models, ..note };
        self.noted.push(Noted { id, parent, batch: place.0 as u32, row: place.1 as u32, note });
    }

    /// Writes roles and costs into the batches of the body. Returns how many calls have usage but no known price.
    pub(crate) fn write(self, batches: &mut [SpanColumns], pricer: &Pricer) -> u64 {
        let mut unpriced = 0;
        for settled in self.settle() {
            let columns = &mut batches[settled.batch];
            let role: &[u8] = match settled.role {
                Role::Leaf => b"leaf",
                Role::Aggregate => b"aggregate",
                Role::Duplicate => b"duplicate",
                Role::None => continue,
            };
            columns.texts[const { slot("usage_role") }].set(settled.row, role);
            match settled.cost {
                Some((Cost::Usd(usd), priced_by)) => {
                    columns.usds[const { slot("cost_usd") }].set(settled.row, usd);
                    columns.texts[const { slot("price_source") }].set(settled.row, pricer.source(priced_by).as_bytes());
                }
                Some((Cost::Unknown, _)) if settled.role == Role::Leaf => unpriced += 1,
                _ => {}
            }
        }
        unpriced
    }

    /// The role of every noted span, in the order of the body.
    fn settle(self) -> Vec<Settled> {
        let mut roles: Vec<Role> = self.noted.iter().map(|noted| noted.note.alone()).collect();
        if self.noted.len() > 1 {
            self.settle_repeated(&mut roles);
            self.settle_ancestors(&mut roles);
            self.settle_answers(&mut roles);
            self.settle_siblings(&mut roles);
        }
        let settled = self.noted.iter().zip(roles).map(|(noted, role)| Settled {
            batch: noted.batch as usize,
            row: noted.row as usize,
            role,
            cost: noted.note.cost.filter(|_| matches!(role, Role::Leaf | Role::Duplicate)),
        });
        settled.collect()
    }

    /// The same trace and span id told twice is one call.
    fn settle_repeated(&self, roles: &mut [Role]) {
        let mut seen = HashSet::with_capacity_and_hasher(self.noted.len(), FixedState::default());
        for (noted, role) in self.noted.iter().zip(roles) {
            if *role != Role::None && !seen.insert(noted.id) {
                *role = Role::Duplicate;
            }
        }
    }

    /// A call above a call is a wrapper that tells of it again, unless it is plainly another call.
    fn settle_ancestors(&self, roles: &mut [Role]) {
        let mut pairs = self.nested(roles);
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
    fn nested(&self, roles: &[Role]) -> Vec<(usize, usize)> {
        let calls = || (0..self.noted.len()).filter(|&at| roles[at] == Role::Leaf);
        let mut noted = HashMap::with_capacity_and_hasher(self.noted.len(), FixedState::default());
        for at in calls() {
            noted.entry(self.noted[at].id).or_insert(at);
        }
        let mut parents = HashMap::with_capacity_and_hasher(self.parents.len(), FixedState::default());
        for &(id, parent) in &self.parents {
            parents.entry(id).or_insert(parent);
        }
        let mut pairs = Vec::new();
        for below in calls() {
            let Noted { id, parent, .. } = self.noted[below];
            let mut above = parent;
            for _ in 0..ANCESTORS_MAX {
                if above == 0 || above == id.span {
                    break;
                }
                let above_id = Id { span: above, ..id };
                if let Some(&at) = noted.get(&above_id) {
                    pairs.push((at, below));
                }
                let Some(&next) = parents.get(&above_id) else { break };
                above = next;
            }
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
        let rank = |at: usize| {
            let Noted { id, note, .. } = &self.noted[at];
            let priced = matches!(note.cost, Some((Cost::Usd(_), _)));
            (note.usage.is_none(), !priced, note.start_unix_nano, id.span)
        };
        rank(one) < rank(other)
    }
}

impl Note {
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
