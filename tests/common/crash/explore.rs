//! [`explore`]: a workload is recorded, the machine crashes after each of its calls, and what is left is read again.

use super::disk::{Disk, Effect, Recording};
use super::model::{Choice, Kind, Model, Open, Torn, mix};
use crate::common::Random;
use dolmen::commit::file_system::FileSystem;
use dolmen::commit::sweep_in;
use std::collections::{BTreeSet, HashSet};
use std::fmt::Write;
use std::sync::Arc;

/// The lengths of the sectors that reach the device one by one.
const SECTORS: [usize; 2] = [512, 4096];

/// States that are tried of the crashes that come after something else went wrong.
const STATES_AFTER: usize = 150;

/// Events before the crash that a story tells.
const TOLD: usize = 24;

/// Something that a program does in steps, of which each is acknowledged.
pub trait Workload: Sync {
    fn name(&self) -> String;

    /// The disk as it was before.
    fn disk(&self) -> Disk;

    /// Does the steps after `done`, and marks each: [`Disk::begin`] before it, [`Disk::done`] when it is acknowledged. Steps are counted
    /// from 1. After a crash some of the next one may be there already.
    fn run(&self, saving_in: &Arc<dyn FileSystem>, disk: &Disk, done: usize) -> Result<(), String>;

    /// Reads what a crash has left, with the readers that users have, and says what is wrong: it must be what there was after a step
    /// between the last one acknowledged and the last one begun.
    fn check(&self, after: &Disk, done: usize, begun: usize) -> Result<(), String>;

    /// After how many crashes it goes on, and at how many moments it is killed alone and goes on; until the machine crashes.
    fn going_on(&self) -> usize {
        10
    }
}

/// What was gone through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Moments at which it crashed.
    pub crashes: usize,
    /// States after a crash: different ones of each moment.
    pub states: usize,
    /// Different ones in all.
    pub distinct: usize,
    /// Those that differ in what a reader can see, or in what it may see: these were read.
    pub read: usize,
    /// Those of them from which the workload went on, to its end; and times that it went on after it had been killed.
    pub gone_on: usize,
    pub killed: usize,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Report) {
        self.crashes += other.crashes;
        self.states += other.states;
        self.distinct += other.distinct;
        self.read += other.read;
        self.gone_on += other.gone_on;
        self.killed += other.killed;
    }
}

/// A moment at which the machine may crash: after so many events, with what was acknowledged and begun then.
struct Moment {
    events: usize,
    done: usize,
    begun: usize,
}

/// Records the workload, which saves in what `wrap` makes of its disk, and reads about `states` of the states that a crash may leave.
///
/// # Errors
/// The story of the first state that is not as it should be.
///
/// # Panics
/// If the workload fails without any crash.
pub fn explore(
    workload: &dyn Workload,
    wrap: &dyn Fn(Disk) -> Arc<dyn FileSystem>,
    states: usize,
    seed: u64,
) -> Result<Report, String> {
    let name = workload.name();
    let disk = workload.disk();
    workload.run(&wrap(disk.clone()), &disk, 0).unwrap_or_else(|e| panic!("{name}, without any crash: {e}"));
    let mut explorer = Explorer::new(workload, seed);
    let recording = disk.recording();
    explorer.go_through(&recording, moments(&recording, (0, 0)), states)?;
    explorer.earlier = "going on after an earlier crash";
    for (after, done, begun) in std::mem::take(&mut explorer.kept) {
        let again = Disk::new(after);
        let told = again.tree().listing().join("\n");
        let gone_on = workload.run(&wrap(again.clone()), &again, done);
        gone_on.map_err(|e| format!("{name}, going on after a crash: {e}\n{told}"))?;
        let after_that = again.recording();
        explorer.go_through(&after_that, moments(&after_that, (done, begun)), STATES_AFTER)?;
        sweep_all(&again).map_err(|e| format!("{name}, sweeping after a crash: {e}"))?;
        explorer.report.gone_on += 1;
    }
    explorer.earlier = "going on after a program that was killed";
    let all = moments(&recording, (0, 0));
    for n in 0..workload.going_on().min(all.len()) {
        // Spread over all of them, and not at the same ones each time.
        let place = (n * all.len() + explorer.random.below(all.len())) / workload.going_on().min(all.len());
        let Moment { events, done, .. } = all[place];
        let again = Disk::after_kill(&recording, events);
        workload.run(&wrap(again.clone()), &again, done).map_err(|e| format!("{name}, going on after a kill: {e}"))?;
        let after_that = again.recording();
        let mut later = moments(&after_that, (0, 0));
        later.retain(|moment| moment.events > events);
        explorer.go_through(&after_that, later, STATES_AFTER)?;
        sweep_all(&again).map_err(|e| format!("{name}, sweeping after a kill: {e}"))?;
        explorer.report.killed += 1;
    }
    explorer.report.distinct = explorer.distinct.len();
    Ok(explorer.report)
}

/// Removes what the crash left of unfinished saves, and sees that nothing stays of them.
fn sweep_all(disk: &Disk) -> Result<(), String> {
    for line in disk.tree().listing() {
        if let Some(directory) = line.strip_suffix('/') {
            let swept = sweep_in(disk, directory.as_ref()).map_err(|e| e.to_string())?;
            if !swept.live.is_empty() || !swept.failed.is_empty() {
                return Err(format!("{swept:?}"));
            }
        }
    }
    let left = disk.tree().listing();
    match left.iter().any(|line| line.contains(".dolmen-tmp")) {
        true => Err(format!("an unfinished save is left for good: {left:#?}")),
        false => Ok(()),
    }
}

struct Explorer<'w> {
    workload: &'w dyn Workload,
    seed: u64,
    random: Random,
    report: Report,
    distinct: HashSet<u64>,
    /// What was read, with what was allowed.
    read: HashSet<u64>,
    /// States to go on from, with what was acknowledged and begun: a fair sample of those that were read.
    kept: Vec<(super::Tree, usize, usize)>,
    /// What happened before; nothing at first, and states are kept then.
    earlier: &'static str,
}

/// The states of one moment.
struct Crash<'c> {
    model: &'c Model,
    recording: &'c Recording,
    moment: &'c Moment,
    open: Vec<Open>,
    seen: HashSet<u64>,
}

impl<'w> Explorer<'w> {
    fn new(workload: &'w dyn Workload, seed: u64) -> Explorer<'w> {
        Explorer {
            workload,
            seed,
            random: Random::new(seed),
            report: Report::default(),
            distinct: HashSet::new(),
            read: HashSet::new(),
            kept: Vec::new(),
            earlier: "",
        }
    }

    fn go_through(&mut self, recording: &Recording, moments: Vec<Moment>, states: usize) -> Result<(), String> {
        self.report.crashes += moments.len();
        let before = self.report.states;
        for (n, sector_len) in SECTORS.into_iter().enumerate() {
            // What the first length of sectors had no use for the second may have.
            let wanted = if n == 0 { states / 2 } else { states.saturating_sub(self.report.states - before) };
            let mut model = Model::new(&recording.start, &recording.nodes, sector_len);
            let shares = shares(&capacities(recording, &moments, sector_len), wanted);
            let mut applied = 0;
            for (moment, share) in moments.iter().zip(shares) {
                while applied < moment.events {
                    model.apply(&recording.log[applied], applied);
                    applied += 1;
                }
                let open = model.open_cells();
                self.crash(Crash { model: &model, recording, moment, open, seen: HashSet::new() }, share)?;
            }
        }
        Ok(())
    }

    /// Goes through states that a crash at this moment may leave: about as many as wanted.
    fn crash(&mut self, mut crash: Crash<'_>, wanted: usize) -> Result<(), String> {
        if combinations(&crash.open) <= wanted.max(64) as u64 {
            return every(&crash.open.clone()).try_for_each(|choice| self.look(&mut crash, choice));
        }
        for choice in notable(&crash.open, wanted) {
            self.look(&mut crash, choice)?;
        }
        for _ in 0..wanted.saturating_mul(3) {
            if crash.seen.len() >= wanted {
                break;
            }
            let choice = draw(&crash.open, &mut self.random, crash.model);
            self.look(&mut crash, choice)?;
        }
        Ok(())
    }

    /// Reads a state, if there has been none like it.
    fn look(&mut self, crash: &mut Crash<'_>, choice: Choice) -> Result<(), String> {
        let digest = crash.model.digest(&choice);
        if !crash.seen.insert(digest.whole) {
            return Ok(());
        }
        self.report.states += 1;
        self.distinct.insert(digest.whole);
        let Moment { done, begun, .. } = *crash.moment;
        if !self.read.insert(mix(digest.visible, mix(done as u64, begun as u64))) {
            return Ok(());
        }
        self.report.read += 1;
        let tree = crash.model.tree(&choice);
        let wrong = self.workload.check(&Disk::new(tree.clone()), done, begun).err();
        if let Some(wrong) = wrong {
            return Err(self.story(crash, &choice, &tree, &wrong));
        }
        if self.earlier.is_empty() {
            // So that each state has the same chance to be among those that are kept.
            let place = self.random.below(self.report.read);
            match self.kept.len() < self.workload.going_on() {
                true => self.kept.push((tree, done, begun)),
                false if place < self.workload.going_on() => self.kept[place] = (tree, done, begun),
                false => {}
            }
        }
        Ok(())
    }

    fn story(&self, crash: &Crash<'_>, choice: &Choice, tree: &super::Tree, wrong: &str) -> String {
        let mut told = format!("{}: {wrong}\n", self.workload.name());
        let Moment { events, done, begun } = *crash.moment;
        if !self.earlier.is_empty() {
            let _ = writeln!(told, "  {}:", self.earlier);
        }
        let _ = writeln!(
            told,
            "  seed {}; {done} steps were acknowledged and {begun} begun; the crash was after call {events}:",
            self.seed
        );
        if events > TOLD {
            let _ = writeln!(told, "    ... {} calls before these", events - TOLD);
        }
        for (n, event) in crash.recording.log.iter().enumerate().take(events).skip(events.saturating_sub(TOLD)) {
            let _ = writeln!(told, "    {:3}  {}", n + 1, event.what);
        }
        for kind in [Kind::Name, Kind::Length, Kind::Data] {
            let of_kind: Vec<_> = crash.open.iter().zip(&choice.values).filter(|(cell, _)| cell.kind == kind).collect();
            let old = of_kind.iter().filter(|(cell, value)| usize::from(**value) + 1 < cell.since.len()).count();
            let _ = writeln!(told, "  of {} {kind:?} cells not flushed, {old} did not reach the disk", of_kind.len());
        }
        if choice.torn.is_some() {
            let _ = writeln!(told, "  one sector was torn within");
        }
        for line in tree.listing() {
            let _ = writeln!(told, "  left: {line}");
        }
        told
    }
}

/// After each call that changed or flushed something, and after each acknowledgement. What only looked leaves no trace.
fn moments(recording: &Recording, start: (usize, usize)) -> Vec<Moment> {
    let (mut done, mut begun) = start;
    let mut moments = vec![Moment { events: 0, done, begun }];
    for (n, event) in recording.log.iter().enumerate() {
        match event.effects[..] {
            [Effect::Begin(step)] => begun = begun.max(step),
            [Effect::Done(step)] => done = done.max(step),
            _ => {}
        }
        if !matches!(event.effects[..], [Effect::Begin(_)]) {
            moments.push(Moment { events: n + 1, done, begun });
        }
    }
    moments
}

fn combinations(open: &[Open]) -> u64 {
    open.iter().fold(1u64, |product, cell| product.saturating_mul(cell.since.len() as u64))
}

/// Every combination of what each cell may hold.
fn every(open: &[Open]) -> impl Iterator<Item = Choice> + use<'_> {
    let mut next = Some(vec![0u16; open.len()]);
    std::iter::from_fn(move || {
        let values = next.take()?;
        if let Some(n) = (0..open.len()).find(|&n| usize::from(values[n]) + 1 < open[n].since.len()) {
            let mut following = values.clone();
            following[..n].fill(0);
            following[n] += 1;
            next = Some(following);
        }
        Some(Choice { values, torn: None })
    })
}

/// Everything that a crash now may leave under a path, if few cells are open.
pub fn left_under(disk: &Disk, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let recording = disk.recording();
    let mut model = Model::new(&recording.start, &recording.nodes, SECTORS[0]);
    recording.log.iter().enumerate().for_each(|(number, event)| model.apply(event, number));
    let open = model.open_cells();
    every(&open).map(|choice| model.tree(&choice).read(path.as_ref()).map(<[u8]>::to_vec)).collect()
}

/// How many states there are at most of each moment.
fn capacities(recording: &Recording, moments: &[Moment], sector_len: usize) -> Vec<u64> {
    let mut model = Model::new(&recording.start, &recording.nodes, sector_len);
    let mut applied = 0;
    let of = |moment: &Moment| {
        for number in applied..moment.events {
            model.apply(&recording.log[number], number);
        }
        applied = moment.events;
        combinations(&model.open_cells())
    };
    moments.iter().map(of).collect()
}

/// How many states each moment gets of those that are wanted: all alike, but none more than it has.
fn shares(capacities: &[u64], wanted: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..capacities.len()).collect();
    order.sort_by_key(|&n| capacities[n]);
    let mut shares = vec![0; capacities.len()];
    let mut left = wanted as u64;
    for (place, &n) in order.iter().enumerate() {
        let share = capacities[n].min(left.div_ceil((order.len() - place) as u64));
        shares[n] = share as usize;
        left -= share.min(left);
    }
    shares
}

fn first(_: &Open) -> u16 {
    0
}

fn last(cell: &Open) -> u16 {
    (cell.since.len() - 1) as u16
}

/// What came last of what there was before an event.
fn until(cell: &Open, event: usize) -> u16 {
    (cell.since.iter().skip(1).take_while(|since| **since < event).count()) as u16
}

/// States that stand out: what reached the disk in order up to some call; all but one cell, or one alone; names without data,
/// data without names, lengths without data. Where these are far more than the states that are wanted, some of them.
fn notable(open: &[Open], wanted: usize) -> Vec<Choice> {
    let mut found = Vec::new();
    let mut add = |value: &dyn Fn(usize, &Open) -> u16| {
        let values = open.iter().enumerate().map(|(n, cell)| value(n, cell)).collect();
        found.push(Choice { values, torn: None });
    };
    add(&|_, cell| last(cell));
    add(&|_, cell| first(cell));
    let mut events: Vec<usize> = open.iter().flat_map(|cell| cell.since.iter().skip(1).copied()).collect();
    events.sort_unstable();
    events.dedup();
    let most = (wanted / 4).max(16);
    let step = events.len().div_ceil(most).max(1);
    events.iter().rev().step_by(step).for_each(|event| add(&|_, cell| until(cell, *event)));

    // Of each kind of cell nothing or all, with each set of names if there are few.
    let names: Vec<usize> = (0..open.len()).filter(|&n| open[n].kind == Kind::Name).collect();
    let sets = 1usize << names.len().min(6);
    for (data, length) in [(false, false), (false, true), (true, false), (true, true)] {
        for set in 0..sets {
            let value = |n: usize, cell: &Open| match cell.kind {
                Kind::Data if data => last(cell),
                Kind::Length if length => last(cell),
                Kind::Name => match names.iter().position(|name| *name == n) {
                    Some(place) if set >> (place % 6) & 1 == 1 => last(cell),
                    _ => first(cell),
                },
                _ => first(cell),
            };
            add(&value);
        }
    }
    let step = open.len().div_ceil(most.min(200)).max(1);
    for one in (0..open.len()).step_by(step) {
        add(&|n, cell| if n == one { first(cell) } else { last(cell) });
        add(&|n, cell| if n == one { last(cell) } else { first(cell) });
    }
    found
}

/// A state by chance. How likely it is that a cell has reached the disk is drawn too, for each kind.
fn draw(open: &[Open], random: &mut Random, model: &Model) -> Choice {
    let likely = [(); 3].map(|()| [0, 5, 50, 50, 95, 100][random.below(6)]);
    let values: Vec<u16> = open
        .iter()
        .map(|cell| match random.below(100) < likely[cell.kind as usize] {
            true => last(cell),
            false => random.below(cell.since.len()) as u16,
        })
        .collect();
    let data: Vec<usize> = (0..open.len()).filter(|&n| open[n].kind == Kind::Data).collect();
    let torn = (!data.is_empty() && random.below(4) == 0).then(|| {
        let cell = data[random.below(data.len())];
        let begins_with = random.below(open[cell].since.len()) as u16;
        Torn { cell, begins_with, cut: 1 + random.below(model.sector_len() - 1) }
    });
    Choice { values, torn }
}
