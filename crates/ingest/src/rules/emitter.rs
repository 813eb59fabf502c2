//! What is known of single emitters: how they count, and their own words.

use std::collections::BTreeMap;

use super::file::{Counts, FileEmitter};

/// Facts about one emitter.
#[derive(Clone, Debug)]
pub(crate) struct Emitter {
    scope: String,
    is_prefix: bool,
    from: Option<Vec<u64>>,
    until: Option<Vec<u64>>,
    providers: Vec<String>,
    /// Attributes whose presence says that it does not hold.
    pub(crate) unless: Vec<Vec<u8>>,
    pub(crate) input_cache: Option<Counts>,
    pub(crate) output_reasoning: Option<Counts>,
    pub(crate) operations: BTreeMap<String, String>,
    pub(crate) calls: Vec<String>,
}

/// The numbers of a version: `0.40.14` and `2.4b0`; what follows the first letter says nothing of the order here.
fn version(text: &str) -> Vec<u64> {
    let head = text.trim_start_matches('v').split(|c: char| c.is_ascii_alphabetic() || c == '-' || c == '+').next();
    head.into_iter().flat_map(|head| head.split('.')).map_while(|part| part.parse().ok()).collect()
}

impl Emitter {
    pub(super) fn compile(file: &FileEmitter) -> Result<Self, String> {
        let scope = file.scope.get_ref();
        let bound = |text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match version(text) {
                numbers if numbers.is_empty() => Err(format!("`{text}` is no version: write one such as 1.4")),
                numbers => Ok(Some(numbers)),
            },
        };
        Ok(Self {
            scope: scope.trim_end_matches('*').to_owned(),
            is_prefix: scope.ends_with('*'),
            from: bound(&file.from)?,
            until: bound(&file.until)?,
            providers: file.providers.clone(),
            unless: file.unless.iter().map(|name| name.clone().into_bytes()).collect(),
            input_cache: file.input_cache,
            output_reasoning: file.output_reasoning,
            operations: file.operations.clone(),
            calls: file.calls.clone(),
        })
    }

    /// Whether these facts are about a scope. A scope that tells no version is taken for the newest.
    pub(crate) fn is_about(&self, scope: &str, scope_version: &str) -> bool {
        let named = if self.is_prefix { scope.starts_with(&self.scope) } else { scope == self.scope };
        if !named {
            return false;
        }
        let told = version(scope_version);
        self.from.as_ref().is_none_or(|from| told.is_empty() || told >= *from)
            && self.until.as_ref().is_none_or(|until| !told.is_empty() && told < *until)
    }

    /// Whether these facts hold for calls of a provider.
    pub(crate) fn is_about_provider(&self, provider: Option<&str>) -> bool {
        self.providers.is_empty() || provider.is_some_and(|told| self.providers.iter().any(|known| known == told))
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(version("0.40.14") < version("0.62.4"));
        assert!(version("2.4b0") > version("2.3"));
        assert!(version("v1.10.0-rc.1") > version("1.9"));
        assert!(version("unknown").is_empty());
    }
}
