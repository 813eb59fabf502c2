//! Who answered a call: spellings of providers, hosts and names of models that give them away.

use std::collections::{BTreeMap, HashSet};

use super::file::File;

/// What is known of providers.
#[derive(Debug, Default)]
pub(crate) struct Providers {
    spellings: BTreeMap<String, String>,
    /// Names of libraries that stand where a provider is told, in lower case.
    frameworks: HashSet<String>,
    hosts: Vec<(String, String)>,
    models: Vec<(String, String)>,
}

impl Providers {
    pub(super) fn of<'f>(files: impl Iterator<Item = &'f File>) -> Self {
        let (mut all, mut hosts, mut models) = (Self::default(), BTreeMap::new(), BTreeMap::new());
        for file in files {
            for (provider, spellings) in &file.providers {
                for spelling in spellings.iter().chain([provider]) {
                    all.spellings.entry(spelling.to_lowercase()).or_insert_with(|| provider.clone());
                }
            }
            all.frameworks.extend(file.frameworks.iter().map(|name| name.to_lowercase()));
            for (host, provider) in &file.hosts {
                hosts.entry(host.to_lowercase()).or_insert_with(|| provider.clone());
            }
            for (model, provider) in &file.models {
                models.entry(model.to_lowercase()).or_insert_with(|| provider.clone());
            }
        }
        all.hosts = hosts.into_iter().collect();
        all.models = models.into_iter().collect();
        all
    }

    /// The well-known name of a provider, or its own spelling in lower case. `None` where what was told names a library
    /// or nobody.
    pub(crate) fn of_told(&self, told: &str) -> Option<String> {
        let told = told.trim().trim_matches('"').to_ascii_lowercase();
        if let Some(known) = self.spellings.get(&told) {
            return Some(known.clone());
        }
        if told.is_empty() || self.frameworks.contains(&told) {
            return None;
        }
        let mut head = told.as_str();
        while let Some((shorter, _)) = head.rsplit_once(['.', '/']) {
            head = shorter;
            if let Some(known) = self.spellings.get(head) {
                return Some(known.clone());
            }
            if self.frameworks.contains(head) {
                return None;
            }
        }
        Some(told)
    }

    /// The provider that serves at a host, which may stand within a URL.
    pub(crate) fn of_host(&self, host: &str) -> Option<&str> {
        let host = host.rsplit_once("://").map_or(host, |(_, rest)| rest);
        let host = host.split(['/', '?', '#']).next().unwrap_or(host);
        let host = host.split_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
        let found = self.hosts.iter().find(|(end, _)| {
            host.strip_suffix(end.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with(['.', '-']))
        });
        found.map(|(_, provider)| provider.as_str())
    }

    /// The provider that a model's name gives away: one before a slash (`anthropic/claude-…`), or the longest known
    /// start.
    pub(crate) fn of_model(&self, model: &str) -> Option<&str> {
        let model = model.to_ascii_lowercase();
        if let Some((head, _)) = model.split_once('/')
            && let Some(provider) = self.spellings.get(head)
        {
            return Some(provider);
        }
        let name = model.strip_prefix("models/").unwrap_or(&model);
        let known = self.models.iter().filter(|(start, _)| name.starts_with(start.as_str()));
        known.max_by_key(|(start, _)| start.len()).map(|(_, provider)| provider.as_str())
    }
}
