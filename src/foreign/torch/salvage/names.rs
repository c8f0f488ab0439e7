//! Which record is which: no checksum covers a record's name.
//!
//! The name is there twice, in the record's header and in the directory. Where both are left and agree, it is certain. Where only one is
//! left, as in every file that was cut off, its place among the others must agree: storages come in the order of their keys, without a
//! gap where the file has none. So a digit that was damaged does not pass one tensor's bytes off as another's.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::records::{Found, Sum};

/// A record of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    /// Its number among those that were found.
    pub(super) number: usize,
    /// Why it may be another's, if it may.
    pub(super) doubt: Option<&'static str>,
}

/// The records by their names within the archive's folder.
#[derive(Debug, Default)]
pub(super) struct Names {
    root: String,
    named: BTreeMap<String, Named>,
    /// All records that have a name which several have.
    rivals: BTreeMap<String, Vec<usize>>,
}

const TWO_NAMES: &str = "its header and the archive's directory call it by different names";
const TWO_RECORDS: &str = "two records have its name";
const NO_ORDER: &str = "its place among the records is that of another: its name may be damaged";
const NO_ANCHOR: &str = "what lies in front of it is damaged: it may be part of a checkpoint within this one";

/// The folders of storages.
pub(super) const FOLDERS: [&str; 2] = ["data/", "constants/"];

/// How well a name is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Certain,
    Single,
    Doubtful,
}

impl Names {
    /// Names the records; `is_known` says which storages there should be, by the names of their records: all that the pickles speak of.
    /// Without pickles it is not known, and empty.
    pub(super) fn of(found: &[Found], keys: &Keys) -> Names {
        let root = root_of(found);
        let mut claims: BTreeMap<String, Vec<(usize, Trust)>> = BTreeMap::new();
        for (number, one) in found.iter().enumerate() {
            let local = one.local_name.as_deref().and_then(|name| within(&root, name));
            let entry = one.entry_name.as_deref().and_then(|name| within(&root, name));
            let mut claim = |name: &str, trust| claims.entry(name.to_owned()).or_default().push((number, trust));
            match (local, entry) {
                (Some(local), Some(entry)) if local == entry => claim(local, Trust::Certain),
                (Some(local), Some(entry)) => match (keys.is_known(local), keys.is_known(entry)) {
                    (true, false) => claim(local, Trust::Single),
                    (false, true) => claim(entry, Trust::Single),
                    _ => {
                        claim(local, Trust::Doubtful);
                        claim(entry, Trust::Doubtful);
                    }
                },
                (Some(name), None) | (None, Some(name)) => claim(name, Trust::Single),
                (None, None) => {}
            }
        }
        let (mut named, mut rivals) = (BTreeMap::new(), BTreeMap::new());
        for (name, mut claims) in claims {
            // What is surely one record's is no other's.
            for trust in [Trust::Certain, Trust::Single] {
                if claims.iter().any(|claim| claim.1 == trust) {
                    claims.retain(|claim| claim.1 == trust);
                    break;
                }
            }
            let is_right = |claim: &(usize, Trust)| found.get(claim.0).is_some_and(|one| one.sum == Sum::Right);
            if claims.len() > 1 && claims.iter().filter(|claim| is_right(claim)).count() == 1 {
                claims.retain(is_right);
            }
            let doubt = match *claims.as_slice() {
                [(_, Trust::Doubtful)] => Some(TWO_NAMES),
                [_] => None,
                _ => Some(TWO_RECORDS),
            };
            if doubt == Some(TWO_RECORDS) {
                rivals.insert(name.clone(), claims.iter().map(|(number, _)| *number).collect());
            }
            if let Some(&(number, _)) = claims.first() {
                named.insert(name, Named { number, doubt });
            }
        }
        let mut names = Names { root, named, rivals };
        names.settle_disagreements(found);
        names.check_anchor(found);
        for folder in FOLDERS {
            names.check_order(found, keys, folder);
        }
        names
    }

    /// The folder of all records.
    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// The record of a name within it.
    pub(super) fn get(&self, name: &str) -> Option<Named> {
        self.named.get(name).copied()
    }

    /// Whether a whole name is one that PyTorch gives to a record.
    pub(super) fn is_usual(&self, name: &str) -> bool {
        within(&self.root, name)
            .is_some_and(|name| FIXED.contains(&name) || FOLDERS.iter().any(|folder| name.starts_with(folder)))
    }

    /// All names that begin so, with their records.
    pub(super) fn beginning<'n>(&'n self, prefix: &'n str) -> impl Iterator<Item = (&'n str, Named)> {
        let from = self.named.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.take_while(move |(name, _)| name.starts_with(prefix)).map(|(name, named)| (name.as_str(), *named))
    }

    /// A record with two names has the one that no other record has.
    fn settle_disagreements(&mut self, found: &[Found]) {
        let mut settled: HashMap<usize, u32> = HashMap::new();
        for named in self.named.values().filter(|named| named.doubt == Some(TWO_NAMES)) {
            let count = settled.entry(named.number).or_insert(0);
            *count = count.saturating_add(1);
        }
        for named in self.named.values_mut().filter(|named| named.doubt == Some(TWO_NAMES)) {
            let is_two = found.get(named.number).is_some_and(|one| one.local_name.is_some() && one.is_confirmed());
            if is_two && settled.get(&named.number) == Some(&1) {
                named.doubt = None;
            }
        }
    }

    /// A pickle that only its header names must be joined to the file's beginning, record by record.
    fn check_anchor(&mut self, found: &[Found]) {
        for name in ["data.pkl", "constants.pkl"] {
            let Some(named) = self.named.get_mut(name) else { continue };
            let is_confirmed = found.get(named.number).is_some_and(Found::is_confirmed);
            let before = found.get(..=named.number).unwrap_or_default();
            let is_joined = before.array_windows_are_joined();
            if !is_confirmed && !is_joined {
                named.doubt.get_or_insert(NO_ANCHOR);
            }
        }
    }

    /// Compares the names of a folder's records with their order, where nothing but one copy of the name speaks for it.
    fn check_order(&mut self, found: &[Found], keys: &Keys, folder: &str) {
        let is_certain = |one: &Found| one.local_name.is_some() && one.local_name == one.entry_name;
        let mut records: Vec<(usize, &str)> = self
            .beginning(folder)
            .filter(|(_, named)| named.doubt.is_none())
            // Where the directory alone has a record, and nothing of one is there, its place says nothing.
            .filter(|(_, named)| {
                found.get(named.number).is_some_and(|one| one.sum != Sum::Open || one.local_name.is_some())
            })
            .map(|(name, named)| (named.number, name.get(folder.len()..).unwrap_or_default()))
            .collect();
        records.sort_unstable_by_key(|(number, _)| *number);
        let is_settled = self.beginning(folder).all(|(_, named)| named.doubt.is_none());
        if is_settled && records.iter().all(|(number, _)| found.get(*number).is_some_and(is_certain)) {
            return;
        }
        let chains = chains(found);
        let chain_of = |number: usize| chains.get(number).copied().unwrap_or(0);
        let rivals = self.rivals.keys().filter_map(|name| name.strip_prefix(folder));
        let seen: Vec<&str> = records.iter().map(|(_, key)| *key).chain(rivals).collect();
        let orders = [Order::Numbers, Order::Texts].into_iter().filter_map(|order| {
            let ranks = keys.ranks(folder, order, seen.iter().copied())?;
            let ranked: Vec<(usize, i64)> =
                records.iter().filter_map(|(number, key)| Some((*number, *ranks.get(*key)?))).collect();
            let agree = |pair: &[(usize, i64)]| match *pair {
                [(a, first), (b, second)] if chain_of(a) == chain_of(b) => {
                    Some(second.saturating_sub(first)) == i64::try_from(b.saturating_sub(a)).ok()
                }
                [(_, first), (_, second)] => first < second,
                _ => false,
            };
            let agreeing = ranked.windows(2).filter(|pair| agree(pair)).count();
            Some((agreeing, ranked, ranks))
        });
        // Of two that agree as well, the first.
        let Some((agreeing, ranked, ranks)) = orders.reduce(|best, next| if next.0 > best.0 { next } else { best })
        else {
            return;
        };
        // Someone else's order says nothing: most pairs agree in PyTorch's, and a damaged name spoils two. Of a few there is no telling.
        const TELLING: usize = 6;
        if ranked.len() >= TELLING && agreeing.saturating_mul(2) < ranked.len().saturating_sub(1) {
            return;
        }
        let mut doubtful: HashSet<usize> = HashSet::new();
        // For each stretch of records, by how much numbers and ranks differ in it.
        let mut offsets: HashMap<usize, i64> = HashMap::new();
        // Those of which more than one record says so.
        let mut vouched: HashSet<usize> = HashSet::new();
        for chain in ranked.chunk_by(|(a, _), (b, _)| chain_of(*a) == chain_of(*b)) {
            let offset_of = |(number, rank): &(usize, i64)| rank.saturating_sub(i64::try_from(*number).unwrap_or(0));
            let mut votes: HashMap<i64, u32> = HashMap::new();
            let mut vote = |offset: i64| {
                let count = votes.entry(offset).or_insert(0);
                *count = count.saturating_add(1);
            };
            chain.iter().map(offset_of).for_each(&mut vote);
            chain
                .iter()
                .filter(|(number, _)| found.get(*number).is_some_and(is_certain))
                .map(offset_of)
                .for_each(&mut vote);
            let Some(&(first, _)) = chain.first() else { continue };
            if self.begins_folder(found, &chains, first, folder) {
                vote(offset_of(&(first, 0)));
            }
            let most = votes.values().copied().max().unwrap_or(0);
            let mut winners = votes.iter().filter(|(_, votes)| **votes == most).map(|(offset, _)| *offset);
            let winner = winners.next().filter(|_| winners.next().is_none());
            offsets.extend(winner.map(|offset| (chain_of(first), offset)));
            if most >= 2 {
                vouched.extend(winner.map(|_| chain_of(first)));
            }
            let uncertain = chain.iter().filter(|(number, _)| !found.get(*number).is_some_and(is_certain));
            doubtful.extend(uncertain.filter(|one| Some(offset_of(one)) != winner).map(|(number, _)| *number));
        }
        // And what no other is joined to must at least lie between its neighbours.
        let sound: Vec<(usize, i64)> =
            ranked.iter().filter(|(number, _)| !doubtful.contains(number)).copied().collect();
        for three in sound.windows(3) {
            if let [(_, before), (number, rank), (_, after)] = *three
                && !(before < rank && rank < after)
                && before < after
                && !found.get(number).is_some_and(is_certain)
                && !vouched.contains(&chain_of(number))
            {
                doubtful.insert(number);
            }
        }
        if let [.., (_, before), (number, rank)] = *sound.as_slice()
            && before >= rank
            && !found.get(number).is_some_and(is_certain)
            && !vouched.contains(&chain_of(number))
        {
            doubtful.insert(number);
        }
        // Of two records with one name, the one in whose place it belongs.
        let mut told: Vec<(String, usize)> = Vec::new();
        for (name, rivals) in &self.rivals {
            let Some(&rank) = name.strip_prefix(folder).and_then(|key| ranks.get(key)) else { continue };
            let belongs = |number: &&usize| {
                let here = rank.checked_sub(i64::try_from(**number).unwrap_or(i64::MAX));
                here.is_some() && offsets.get(&chain_of(**number)).copied() == here
            };
            let mut belonging = rivals.iter().filter(belongs);
            if let (Some(&number), None) = (belonging.next(), belonging.next()) {
                told.push((name.clone(), number));
            }
        }
        // And of two names that one record has, the one that belongs in its place.
        for (name, named) in self.beginning(folder).filter(|(_, named)| named.doubt == Some(TWO_NAMES)) {
            let rank = name.strip_prefix(folder).and_then(|key| ranks.get(key)).copied();
            let here = i64::try_from(named.number).ok().and_then(|number| rank?.checked_sub(number));
            if here.is_some() && offsets.get(&chain_of(named.number)).copied() == here {
                told.push((name.to_owned(), named.number));
            }
        }
        for (name, number) in told {
            self.named.retain(|_, named| named.number != number || named.doubt != Some(TWO_NAMES));
            self.named.insert(name, Named { number, doubt: None });
        }
        for (name, named) in &mut self.named {
            if name.starts_with(folder) && doubtful.contains(&named.number) {
                named.doubt.get_or_insert(NO_ORDER);
            }
        }
    }

    /// Whether what lies right in front of a storage is known to be none: then it is the first.
    fn begins_folder(&self, found: &[Found], chains: &[usize], number: usize, folder: &str) -> bool {
        let Some(before) = number.checked_sub(1) else { return false };
        let Some(one) = found.get(before).filter(|_| chains.get(before) == chains.get(number)) else { return false };
        let mut names = [&one.local_name, &one.entry_name].into_iter().flatten().filter_map(|n| within(&self.root, n));
        names.next().is_some_and(|name| FIXED.contains(&name) && !name.starts_with(folder))
    }
}

/// Names of records that hold no storage.
const FIXED: [&str; 9] = [
    "data.pkl",
    "constants.pkl",
    "byteorder",
    "version",
    ".format_version",
    ".storage_alignment",
    ".data/version",
    ".data/serialization_id",
    "attributes.pkl",
];

/// The name within a folder; `None` of what lies in another.
fn within<'n>(root: &str, name: &'n str) -> Option<&'n str> {
    if root.is_empty() {
        return Some(name);
    }
    name.strip_prefix(root)?.strip_prefix('/')
}

/// The folder of most records.
fn root_of(found: &[Found]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in found.iter().flat_map(|one| [&one.local_name, &one.entry_name]).flatten() {
        let root = name.split_once('/').map_or("", |(root, _)| root);
        let count = counts.entry(root).or_insert(0);
        *count = count.saturating_add(1);
    }
    let most = counts.values().copied().max().unwrap_or(0);
    counts.iter().find(|(_, count)| **count == most).map_or(String::new(), |(root, _)| (*root).to_owned())
}

/// For each record, the number of the stretch of records that it is in, without anything between them.
fn chains(found: &[Found]) -> Vec<usize> {
    let mut chain = 0usize;
    let mut before: Option<&Found> = None;
    let of = |one| {
        if before.is_some_and(|before: &Found| !before.adjoins(one)) {
            chain = chain.saturating_add(1);
        }
        before = Some(one);
        chain
    };
    found.iter().map(of).collect()
}

/// Whether records follow one another without anything between them.
trait Joined {
    fn array_windows_are_joined(&self) -> bool;
}

impl Joined for [Found] {
    fn array_windows_are_joined(&self) -> bool {
        self.windows(2).all(|two| matches!(two, [before, next] if before.adjoins(next)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// By the numbers that keys are.
    Numbers,
    /// As texts, as PyTorch sorted them before version 2.
    Texts,
}

/// The storages that the pickles of a file speak of: length in bytes and of a number, by the names of their records.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) storages: HashMap<String, (u64, u64)>,
}

impl Keys {
    fn is_known(&self, name: &str) -> bool {
        FIXED.contains(&name) || self.storages.contains_key(name)
    }

    /// The place of each key of a folder in an order; without pickles the number that it is. `None` if the keys have no such order.
    fn ranks<'k>(
        &'k self,
        folder: &str,
        order: Order,
        seen: impl Iterator<Item = &'k str>,
    ) -> Option<HashMap<&'k str, i64>> {
        let mut keys: Vec<&str> = self.storages.keys().filter_map(|name| name.strip_prefix(folder)).collect();
        let number = |key: &str| key.parse::<i64>().ok();
        if keys.is_empty() {
            return match order {
                Order::Numbers => seen.map(|key| Some((key, number(key)?))).collect(),
                Order::Texts => None,
            };
        }
        match order {
            Order::Numbers if keys.iter().all(|key| number(key).is_some()) => keys.sort_by_key(|key| number(key)),
            Order::Numbers => return None,
            Order::Texts => keys.sort_unstable(),
        }
        Some(keys.into_iter().zip(0..).collect())
    }
}
