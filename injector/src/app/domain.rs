//! The domain of the cluster, where it is not said.

/// Where the resolver is told what to search.
const RESOLVER: &str = "/etc/resolv.conf";
const DEFAULT: &str = "cluster.local";

/// The domain that is said, or the one the resolver searches.
pub async fn domain(said: Option<&str>) -> String {
    if let Some(said) = said {
        return said.to_owned();
    }
    let text = tokio::fs::read_to_string(RESOLVER)
        .await
        .unwrap_or_default();
    let found = searched(&text).unwrap_or(DEFAULT).to_owned();
    tracing::info!(
        domain = found,
        "the cluster's domain is not said, and was detected"
    );
    found
}

/// The first of the search domains in the order of the alphabet: upstream's way, right for `cluster.local`.
fn searched(text: &str) -> Option<&str> {
    // The last line of several counts.
    let lines = text.lines().rev().map(str::split_whitespace);
    let mut searches =
        lines.filter_map(|mut words| (words.next() == Some("search")).then_some(words));
    searches.next()?.min()
}

#[cfg(test)]
mod tests {
    use super::searched;

    #[test]
    fn the_first_search_domain_of_the_alphabet_is_taken() {
        let pod =
            "nameserver 10.0.0.10\nsearch app.svc.corp.example svc.corp.example corp.example\n";
        assert_eq!(searched(pod), Some("app.svc.corp.example"));
        let usual = "search dapr-system.svc.cluster.local svc.cluster.local cluster.local";
        assert_eq!(searched(usual), Some("cluster.local"));
        assert_eq!(searched("search\n"), None);
        assert_eq!(searched("# search a\nnameserver 1.1.1.1"), None);
    }
}
