//! What differs, in the words of the file: `qos.rate 100M → 1G`, `guard.macs 2`, `no impair.in`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Compares two values of which everything that is as by default is absent.
pub(super) fn differences(now: &impl Serialize, wanted: &impl Serialize) -> Vec<String> {
    let (is, shall) = (leaves(now), leaves(wanted));
    let mut words = Vec::new();
    for (key, value) in &shall {
        match is.get(key) {
            Some(old) if old == value => {}
            Some(old) => words.push(format!("{key} {old} → {value}")),
            None => words.push(format!("{key} {value}")),
        }
    }
    words.extend(is.keys().filter(|key| !shall.contains_key(*key)).map(|key| format!("no {key}")));
    words
}

fn leaves(value: &impl Serialize) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    // What comes from a file can be written again.
    walk("", &serde_json::to_value(value).unwrap_or_default(), &mut found);
    found
}

fn walk(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    let text = match value {
        Value::Null => return,
        Value::Object(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                walk(&path, value, found);
            }
            return;
        }
        Value::Array(list) if list.is_empty() => return,
        Value::Array(list) => list.iter().map(word).collect::<Vec<_>>().join(","),
        other => word(other),
    };
    found.insert(path.to_owned(), text);
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "on".to_owned(),
        Value::Bool(false) => "off".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn in_words() {
        let now = json!({"a": 1, "b": {"c": ["x", 2]}, "d": null, "e": true});
        let wanted = json!({"a": 2, "b": {"c": []}, "d": "new", "e": true});
        assert_eq!(differences(&now, &wanted), ["a 1 → 2", "d new", "no b.c"]);
        assert!(differences(&now, &now).is_empty());
    }
}
