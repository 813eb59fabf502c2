//! What was asked of the rules and prices lately in this body.
//!
//! Spans of a body ask the same few questions thousands of times. The answers are kept beside the walk, where no other thread
//! looks.

use std::sync::Arc;

use crate::price::Answers;

/// Answers kept of each kind; the oldest goes first.
const KEPT_MAX: usize = 16;

/// The answers for one body.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    /// Words for operations, as the emitters of the current scope mean them: their places in the rules.
    operations: Kept<Option<usize>>,
    providers: Kept<Option<Arc<str>>>,
    pub(super) answers: Answers,
}

#[derive(Debug)]
struct Kept<T> {
    answers: Vec<(Box<[u8]>, T)>,
    next: usize,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { answers: Vec::new(), next: 0 }
    }
}

impl<T: Clone> Kept<T> {
    #[inline]
    fn get_or(&mut self, told: &[u8], ask: impl FnOnce() -> T) -> T {
        if let Some((_, answer)) = self.answers.iter().find(|(known, _)| **known == *told) {
            return answer.clone();
        }
        let answer = ask();
        if self.answers.len() < KEPT_MAX {
            self.answers.push((told.into(), answer.clone()));
        } else {
            self.answers[self.next % KEPT_MAX] = (told.into(), answer.clone());
            self.next += 1;
        }
        answer
    }
}

impl Lately {
    /// Other emitters mean other things by their words.
    pub(crate) fn end_scope(&mut self) {
        self.operations = Kept::default();
    }

    pub(super) fn operation(&mut self, told: &str, ask: impl FnOnce() -> Option<usize>) -> Option<usize> {
        self.operations.get_or(told.as_bytes(), ask)
    }

    pub(super) fn provider(&mut self, told: &[u8], ask: impl FnOnce() -> Option<Arc<str>>) -> Option<Arc<str>> {
        // An own copy, whose count no other thread touches.
        self.providers.get_or(told, || ask().map(|provider| Arc::from(&*provider)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: more questions than answers are kept, asked again and again. Guarantee: the right answer each time, and a
    /// question that was just asked is not asked again.
    #[test]
    fn answers_are_right_however_many_there_are() {
        let mut kept = Kept::default();
        let mut asked = 0;
        for round in 0..3 {
            for question in 0..3 * KEPT_MAX {
                let told = question.to_string();
                for _ in 0..2 {
                    let answer = kept.get_or(told.as_bytes(), || {
                        asked += 1;
                        question
                    });
                    assert_eq!(answer, question, "round {round}");
                }
            }
        }
        assert_eq!((asked, kept.answers.len()), (3 * 3 * KEPT_MAX, KEPT_MAX));
    }
}
