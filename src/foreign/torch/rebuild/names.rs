//! Names for tensors: the keys and positions that lead to them.

use std::collections::HashMap;

/// The name of a tensor that is all there is.
const ROOT: &str = "tensor";
/// Paths longer than this are cut, so that deep ones do not make a small file large.
const MAX_PATH_LEN: usize = 512;

/// Where in the document one is, and the names that were given.
#[derive(Default)]
pub(super) struct Names {
    path: String,
    /// How often each name was asked for.
    asked: HashMap<String, u64>,
}

impl Names {
    /// Goes to what a key or position leads to; gives what [`leave`](Self::leave) needs.
    pub(super) fn enter(&mut self, step: &str) -> usize {
        let len = self.path.len();
        if len < MAX_PATH_LEN {
            if len > 0 {
                self.path.push('.');
            }
            // Cut between characters.
            let end = (0..=step.len().min(MAX_PATH_LEN)).rev().find(|&end| step.is_char_boundary(end)).unwrap_or(0);
            self.path.push_str(step.get(..end).unwrap_or(step));
        }
        len
    }

    pub(super) fn leave(&mut self, len: usize) {
        self.path.truncate(len);
    }

    /// The path so far: the name that a tensor here would get, if no other had it.
    pub(super) fn path(&self) -> &str {
        if self.path.is_empty() { ROOT } else { &self.path }
    }

    /// A name for a tensor that is here, that no other has.
    pub(super) fn give(&mut self) -> String {
        let name = self.path().to_owned();
        let asked = self.asked.entry(name.clone()).or_insert(0);
        *asked = asked.saturating_add(1);
        if *asked == 1 {
            return name;
        }
        // What comes out may have been a key itself, so it is asked for in turn.
        loop {
            let number = self.asked.get(&name).copied().unwrap_or(1);
            let other = format!("{name}#{number}");
            if !self.asked.contains_key(&other) {
                self.asked.insert(other.clone(), 1);
                return other;
            }
            if let Some(asked) = self.asked.get_mut(&name) {
                *asked = asked.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_and_unique() {
        let mut names = Names::default();
        assert_eq!(names.give(), "tensor");
        let outer = names.enter("model");
        let inner = names.enter("weight");
        assert_eq!(names.give(), "model.weight");
        assert_eq!(names.give(), "model.weight#2");
        names.leave(inner);
        let inner = names.enter("weight#3");
        assert_eq!(names.give(), "model.weight#3");
        names.leave(inner);
        names.enter("weight");
        assert_eq!(names.give(), "model.weight#4");
        names.leave(outer);
        assert_eq!(names.give(), "tensor#2");
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn endless_paths_are_cut() {
        let mut names = Names::default();
        for _ in 0..1000 {
            names.enter(&"é".repeat(1000));
        }
        assert!(names.give().len() < 2 * MAX_PATH_LEN);
    }
}
