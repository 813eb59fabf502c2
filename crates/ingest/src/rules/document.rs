//! Where facts lie in JSON: the paths of all rules of a document, as one tree, so that the text is read once.

use std::collections::BTreeMap;

use memchr::memmem::Finder;

use super::Source;
use super::file::{FileDocument, FileShape};

/// A place in a document where something is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf {
    /// The fact; `None` for a place that is only a condition.
    pub(crate) fact: Option<u8>,
    /// Lower is preferred within the document.
    pub(crate) order: u16,
    /// The place in [`Document::shapes`].
    pub(crate) shape: u8,
}

/// When the facts of a shape are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Condition {
    /// Leaves one of which must be there; empty for always.
    pub(crate) when: Vec<u16>,
    /// Leaves none of which may be there.
    pub(crate) unless: Vec<u16>,
}

/// A node of the tree of paths.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) keys: BTreeMap<Box<str>, Node>,
    pub(crate) items: Option<Box<Node>>,
    pub(crate) leaves: Vec<u16>,
}

/// A document: an attribute that holds JSON.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) dialect: u8,
    pub(crate) source: Source,
    pub(crate) always_json: bool,
    /// The key that stands in every document that tells anything, where there is one: most need not be parsed.
    pub(crate) key: Option<Finder<'static>>,
    pub(crate) root: Node,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) shapes: Vec<Condition>,
    /// The facts it can tell.
    pub(crate) facts: Vec<u8>,
}

impl Document {
    /// Compiles a document; `fact` gives the place of a column.
    pub(super) fn compile(
        file: &FileDocument,
        dialect: u8,
        shape_of: &dyn Fn(&str) -> Option<FileShape>,
        fact: &dyn Fn(&str) -> Result<u8, String>,
    ) -> Result<Self, String> {
        let mut document = Self {
            dialect,
            source: if file.reported { Source::Reported } else { Source::RawUsage },
            always_json: file.always_json,
            key: None,
            root: Node::default(),
            leaves: Vec::new(),
            shapes: Vec::new(),
            facts: Vec::new(),
        };
        let own = FileShape { facts: file.facts.clone(), ..FileShape::default() };
        document.add_shape(&own, "", fact)?;
        for place in &file.shapes {
            let shape = shape_of(&place.shape).ok_or_else(|| format!("there is no shape `{}`", place.shape))?;
            document.add_shape(&shape, &place.at, fact)?;
        }
        document.key = document.only_key(file);
        Ok(document)
    }

    /// The last part of all its paths, where they agree and no shape adds others.
    fn only_key(&self, file: &FileDocument) -> Option<Finder<'static>> {
        let mut ends = file.facts.values().flatten().map(|path| path.trim_end_matches("[]").rsplit('.').next());
        let first = ends.next()??;
        let agree = file.shapes.is_empty() && !file.always_json && ends.all(|end| end == Some(first));
        agree.then(|| Finder::new(first).into_owned())
    }

    fn add_shape(
        &mut self,
        shape: &FileShape,
        at: &str,
        fact: &dyn Fn(&str) -> Result<u8, String>,
    ) -> Result<(), String> {
        let index = u8::try_from(self.shapes.len()).map_err(|_| "too many shapes in one document".to_owned())?;
        self.shapes.push(Condition::default());
        for (column, paths) in &shape.facts {
            let place = fact(column)?;
            if !self.facts.contains(&place) {
                self.facts.push(place);
            }
            for path in paths {
                let order = self.leaves.len() as u16;
                self.add_leaf(at, path, Leaf { fact: Some(place), order, shape: index });
            }
        }
        let mut condition = |paths: &[String]| -> Vec<u16> {
            paths.iter().map(|path| self.add_leaf(at, path, Leaf { fact: None, order: 0, shape: index })).collect()
        };
        let (when, unless) = (condition(&shape.when), condition(&shape.unless));
        self.shapes[usize::from(index)] = Condition { when, unless };
        Ok(())
    }

    fn add_leaf(&mut self, at: &str, path: &str, leaf: Leaf) -> u16 {
        let id = self.leaves.len() as u16;
        self.leaves.push(leaf);
        let mut node = &mut self.root;
        for part in at.split('.').chain(path.split('.')).filter(|part| !part.is_empty()) {
            let key = part.trim_end_matches("[]");
            if !key.is_empty() {
                node = node.keys.entry(key.into()).or_default();
            }
            for _ in 0..(part.len() - key.len()) / 2 {
                node = node.items.get_or_insert_default();
            }
        }
        node.leaves.push(id);
        id
    }
}
