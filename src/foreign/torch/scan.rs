//! The globals that a checkpoint's pickles name: what a program would import, and perhaps call, that loads it with Python.
//!
//! They are taken from the machine that builds the graph, and not from the document: so what a pickle pops from the stack, or only
//! memoises, is there as well, and so is what it names before it breaks off. Python would have run that.

use std::collections::{HashMap, HashSet};

use super::archive::{Archive, Method, Record, read_record};
use super::pickle::{self, Graph, Input, Node, Ref};
use super::verdicts::{self, Verdict};
use super::zip::{inflated_most, most_of};
use crate::error::{Error, ErrorKind, Result, quoted};
#[cfg(feature = "fs")]
use crate::foreign::notes::Notes;
use crate::format::limits::Limits;
use crate::format::value::Value;
use crate::format::{len_u64, len_usize};
use crate::source::ReadAt;

/// Attributes of attributes are followed so deep.
const MAX_DEPTH: usize = 16;
/// As many attributes are told; `getattr`, which reaches them, is told in any case.
const MAX_ATTRIBUTES: usize = 1000;
/// Characters told of the name of an attribute.
const MAX_ATTRIBUTE_LEN: usize = 128;

/// As many frames that go beyond the end of a pickle are looked into.
const MAX_FRAMES: usize = 4;

/// Something that a pickle names by its module.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScannedGlobal {
    /// The module. Names of Python 2 are as Python 3 takes them.
    pub module: String,
    /// The name within the module; with dots, if it is an attribute of something there.
    pub name: String,
    /// Whether the pickle calls it or makes an object of it. What is only handed over can be called nevertheless, by whatever gets it.
    pub called: bool,
    /// What to think of it.
    pub verdict: Verdict,
}

impl ScannedGlobal {
    /// Module and name, with a dot between.
    pub fn path(&self) -> String {
        format!("{}.{}", self.module, self.name)
    }
}

/// What was found in a checkpoint's pickles.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Scan {
    /// All that they name, in the order in which they first do.
    pub globals: Vec<ScannedGlobal>,
    /// The highest protocol of theirs.
    pub protocol: u8,
    /// Why a pickle could not be read to its end; what it names before that is among the globals.
    pub broken: Option<Error>,
}

impl Scan {
    /// Those that are dangerous.
    pub fn dangerous(&self) -> impl Iterator<Item = &ScannedGlobal> {
        self.globals.iter().filter(|global| global.verdict == Verdict::Dangerous)
    }
}

/// The globals that the pickles of a PyTorch checkpoint name, each with a [`Verdict`]. Nothing is imported or run.
///
/// A verdict is as good as a list of names can be: it does not make a file trustworthy. Reading the file with Dolmen runs none of them.
///
/// ```no_run
/// # fn main() -> dolmen::Result<()> {
/// use dolmen::foreign::torch::{Verdict, globals};
///
/// for global in globals("model.pt")?.iter().filter(|global| global.verdict == Verdict::Dangerous) {
///     println!("{} ({})", global.path(), if global.called { "called" } else { "named" });
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// What is wrong with the archive or a pickle of it; the message of a pickle that is broken says which dangerous ones it names before
/// it breaks off. [`scan`] gives all of those.
#[cfg(feature = "fs")]
pub fn globals(path: impl AsRef<std::path::Path>) -> Result<Vec<ScannedGlobal>> {
    let path = path.as_ref();
    let globals = || {
        let (file, _) = crate::source::file::open_regular(path)?;
        let scan = scan(&file, &Limits::NONE)?;
        let warning = warning(&scan);
        match scan.broken {
            None => Ok(scan.globals),
            Some(e) => Err(warned(e, warning)),
        }
    };
    globals().map_err(|e| e.with_path(path))
}

/// As [`globals`], of anything that can be read at positions; and of broken pickles as far as they go.
///
/// **Cost**: that of the pickles, and of the archive's directory.
///
/// # Errors
/// What is wrong with the archive; [`NotThisFormat`](ErrorKind::NotThisFormat) for what is no checkpoint of PyTorch's;
/// [`Limit`](ErrorKind::Limit); [`Io`](ErrorKind::Io).
pub fn scan(source: &dyn ReadAt, limits: &Limits) -> Result<Scan> {
    let mut scanner = Scanner::default();
    let start = crate::read::read_start(source)?;
    if crate::foreign::is_torch_legacy(&start) {
        scanner.legacy(source)?;
    } else if start.starts_with(b"PK") {
        scanner.archive(source, limits)?;
    } else if super::tar::is_torch(source) {
        let broken = super::tar::look(source, &mut |graph| scanner.take(graph)).err();
        if let Some(e) = broken.as_ref().filter(|e| e.kind() == ErrorKind::Io) {
            return Err(Error::new(e.kind(), e.reason()));
        }
        scanner.scan.broken = broken;
    } else {
        return Err(crate::format::diagnosis::not_dolmen(&start));
    }
    Ok(scanner.scan)
}

/// What a document names: what would be in the pickle again if it were written for PyTorch, after it was converted to another format.
pub fn scan_document(document: &Value) -> Scan {
    let mut scanner = Scanner::default();
    for value in document.descendants() {
        match value {
            Value::Global(global) => drop(scanner.add(&global.module, &global.name, false)),
            Value::Object(object) => {
                if let Value::Global(class) = object.class.unmarked() {
                    scanner.add(&class.module, &class.name, true);
                }
            }
            _ => {}
        }
    }
    scanner.scan
}

/// A note on what is dangerous among the names of a document that is carried over as it is.
#[cfg(feature = "fs")]
pub(crate) fn note_dangerous(checkpoint: &crate::Checkpoint, notes: &mut Notes) -> Result<()> {
    let Some(document) = checkpoint.document()? else { return Ok(()) };
    if let Some(warning) = warning(&scan_document(&document)) {
        notes.push(format!("{warning}; it is kept as data, and would be in a .pt file made of it"));
    }
    Ok(())
}

/// An error about a checkpoint, with what is dangerous in its pickles told first.
#[cold]
pub(super) fn with_warning(e: Error, source: &dyn ReadAt, limits: &Limits) -> Error {
    if e.kind() == ErrorKind::Io {
        return e;
    }
    match scan(source, limits) {
        Ok(scan) => warned(e, warning(&scan)),
        Err(_) => e,
    }
}

fn warned(e: Error, warning: Option<String>) -> Error {
    match warning {
        Some(warning) => e.with_words_before(&format!("{warning}; and it cannot be read: ")),
        None => e,
    }
}

/// A sentence on what is dangerous, if something is.
fn warning(scan: &Scan) -> Option<String> {
    const TOLD: usize = 5;
    let names: Vec<String> = scan.dangerous().take(TOLD).map(|global| quoted(&global.path())).collect();
    let more = scan.dangerous().count().saturating_sub(names.len());
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    (!names.is_empty()).then(|| format!("its pickle names what can run code: {}{more}", names.join(", ")))
}

#[derive(Default)]
struct Scanner {
    scan: Scan,
    /// Where each global is among those of the scan.
    places: HashMap<(String, String), usize>,
    attributes: HashSet<usize>,
    /// How many bytes the machine may take up.
    most: u64,
}

impl Scanner {
    fn archive(&mut self, source: &dyn ReadAt, limits: &Limits) -> Result<()> {
        let archive = Archive::read(source, limits)?;
        for name in ["data.pkl", "constants.pkl"] {
            let Some(record) = archive.get(name) else { continue };
            limits.check("the length of the pickle,", record.len, limits.max_value_len)?;
            self.record(source, record)?;
        }
        Ok(())
    }

    fn record(&mut self, source: &dyn ReadAt, record: &Record) -> Result<()> {
        self.most = most_of(record);
        match record.method {
            Method::Stored => {
                let end = record.data_offset.saturating_add(record.len);
                self.pickle(source, record.data_offset, end).map(drop)
            }
            Method::Deflated => {
                let most = inflated_most(record);
                let held = match read_record(source, record, most) {
                    Ok(held) => held,
                    Err(e) if e.kind() == ErrorKind::Io => return Err(e),
                    Err(e) => {
                        self.scan.broken.get_or_insert(e);
                        return Ok(());
                    }
                };
                self.pickle(&held, 0, len_u64(held.len())).map(drop)
            }
        }
    }

    /// Older files are five pickles, each of which is loaded.
    fn legacy(&mut self, source: &dyn ReadAt) -> Result<()> {
        self.most = u64::MAX;
        const PICKLES: usize = 5;
        let len = source.byte_len().map_err(|e| Error::io("cannot get the length", e))?;
        let mut at = 0;
        for _ in 0..PICKLES {
            let Some(end) = self.pickle(source, at, len)? else { break };
            at = end;
        }
        Ok(())
    }

    /// Takes the globals of a pickle; gives where it ends, if it is not broken.
    fn pickle(&mut self, source: &dyn ReadAt, start: u64, end: u64) -> Result<Option<u64>> {
        self.pickle_or_beginning(source, (start, end), MAX_FRAMES)
    }

    fn pickle_or_beginning(
        &mut self,
        source: &dyn ReadAt,
        (start, end): (u64, u64),
        frames: usize,
    ) -> Result<Option<u64>> {
        let mut input = Input::new(source, start, end);
        let e = match pickle::read(&mut input, self.most) {
            Ok((graph, _)) => {
                self.take(&graph);
                return Ok(Some(input.offset()));
            }
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(e) => e,
        };
        // What came before is a whole pickle, if it ends there.
        let at = last_whole(source, (start, end), e.offset().unwrap_or(start));
        self.scan.broken.get_or_insert(e);
        if let Some(frames) = frames.checked_sub(1)
            && is_frame(source, (at, end))
        {
            let frame = Frame { source, at };
            return self.pickle_or_beginning(&frame, (start, end), frames).map(|_| None);
        }
        let ended = Ended { source, at };
        if let Ok((graph, _)) = pickle::read(&mut Input::new(&ended, start, end.max(ended.len())), self.most) {
            self.take(&graph);
        }
        Ok(None)
    }

    fn take(&mut self, graph: &Graph) {
        self.scan.protocol = self.scan.protocol.max(graph.protocol);
        for global in &graph.globals {
            self.add(&global.name.module, &global.name.name, global.called);
        }
        self.take_attributes(graph);
    }

    /// Adds a global, or what more is known of it; gives its place.
    fn add(&mut self, module: &str, name: &str, called: bool) -> usize {
        let globals = &mut self.scan.globals;
        let place = *self.places.entry((module.to_owned(), name.to_owned())).or_insert(globals.len());
        if place == globals.len() {
            let verdict = verdicts::of(module, name);
            globals.push(ScannedGlobal { module: module.to_owned(), name: name.to_owned(), called: false, verdict });
        }
        if let Some(global) = globals.get_mut(place) {
            global.called |= called;
        }
        place
    }

    /// Adds what `getattr` reaches, such as `os.path.join` from `os.path` and `"join"`; and notes what is called in a roundabout way.
    fn take_attributes(&mut self, graph: &Graph) {
        // For each call of `getattr`, the global that it reaches, and how deep. A node refers to earlier ones alone, where it is called.
        let mut reached: HashMap<u32, (usize, usize)> = HashMap::new();
        for number in (0..graph.len()).filter_map(|number| u32::try_from(number).ok()) {
            let Some(Node::Call(call)) = graph.node(number) else { continue };
            if let Ref::Node(callable) = call.callable
                && let Some(&(place, _)) = reached.get(&callable)
                && let Some(global) = self.scan.globals.get_mut(place)
            {
                global.called = true;
            }
            // Older files have the classes of modules in persistent ids.
            if let Some(Node::Persistent(id)) = graph.get(call.callable) {
                for class in graph.tuple(*id).unwrap_or_default().iter().filter_map(|&class| graph.global(class)) {
                    self.add(&class.module, &class.name, true);
                }
            }
            let is_getattr = graph.global(call.callable).is_some_and(|function| {
                matches!(&*function.module, "builtins" | "__builtin__") && &*function.name == "getattr"
            });
            let Some(&[of, attribute, ..]) = graph.tuple(call.args).filter(|_| is_getattr) else { continue };
            let Some(attribute) = graph.text(attribute) else { continue };
            let (module, outer, depth) = match (graph.global(of), of) {
                (Some(outer), _) => (outer.module.to_string(), outer.name.to_string(), 0),
                (None, Ref::Node(outer)) => match reached.get(&outer) {
                    Some(&(place, depth)) if depth < MAX_DEPTH => match self.scan.globals.get(place) {
                        Some(outer) => (outer.module.clone(), outer.name.clone(), depth.saturating_add(1)),
                        None => continue,
                    },
                    _ => continue,
                },
                _ => continue,
            };
            if self.attributes.len() >= MAX_ATTRIBUTES {
                return;
            }
            let attribute: String = attribute.chars().take(MAX_ATTRIBUTE_LEN).collect();
            let place = self.add(&module, &format!("{outer}.{attribute}"), false);
            self.attributes.insert(place);
            reached.insert(number, (place, depth));
        }
    }
}

/// Where, at most so far, the last opcode begins that could not be done: all before are whole.
fn last_whole(source: &dyn ReadAt, (start, end): (u64, u64), at: u64) -> u64 {
    let mut input = Input::new(source, start, end);
    loop {
        let here = input.offset();
        if step_over(&mut input).is_err() || input.offset() > at {
            return here;
        }
    }
}

/// Goes over one opcode and what belongs to it.
fn step_over(input: &mut Input<'_>) -> Result<()> {
    let len = match input.byte()? {
        b'K' | b'q' | b'h' | 0x80 | 0x82 => 1,
        b'M' | 0x83 => 2,
        b'J' | b'r' | b'j' | 0x84 => 4,
        b'G' | 0x95 => 8,
        0x8c | b'U' | b'C' | 0x8a => u64::from(input.byte()?),
        b'X' | b'T' | b'B' | 0x8b => u64::from(u32::from_le_bytes(input.array()?)),
        0x8d | 0x8e | 0x96 => u64::from_le_bytes(input.array()?),
        b'I' | b'L' | b'F' | b'V' | b'S' | b'p' | b'g' | b'P' => {
            input.line()?;
            0
        }
        b'c' | b'i' => {
            input.line()?;
            input.line()?;
            0
        }
        _ => 0,
    };
    input.skip(len).map(drop)
}

/// A source whose pickle ends at a place, as if it were whole: with `None` for its result.
struct Ended<'a> {
    source: &'a dyn ReadAt,
    at: u64,
}

/// Opcodes: `None`, and the end.
const END: [u8; 2] = *b"N.";

impl Ended<'_> {
    fn len(&self) -> u64 {
        self.at.saturating_add(len_u64(END.len()))
    }
}

impl ReadAt for Ended<'_> {
    fn byte_len(&self) -> std::io::Result<u64> {
        Ok(self.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        let before = len_usize(self.at.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        let (before, rest) = buffer.split_at_mut_checked(before).unwrap_or_default();
        if !before.is_empty() {
            self.source.read_exact_at(before, offset)?;
        }
        // Beyond the end nothing is looked at; the pickle stays as long as it says it is.
        rest.fill(0);
        let done = len_usize(offset.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let end = END.get(done..).unwrap_or_default();
        rest.iter_mut().zip(end).for_each(|(place, &byte)| *place = byte);
        Ok(())
    }
}

/// Whether a frame begins here, and is all there.
fn is_frame(source: &dyn ReadAt, (at, end): (u64, u64)) -> bool {
    let mut input = Input::new(source, at, end);
    matches!(input.take(HIDDEN.len()), Ok([0x95, ..]))
}

/// A source in which a frame is hidden that is longer than the pickle. C's unpickler refuses it; Python's own, on which others are built,
/// goes on.
struct Frame<'a> {
    source: &'a dyn ReadAt,
    at: u64,
}

/// Opcodes that do nothing, as long as that of a frame: `None` and `POP`, three times; 0 and `POP`.
const HIDDEN: [u8; 9] = *b"N0N0N0K\x000";

impl ReadAt for Frame<'_> {
    fn byte_len(&self) -> std::io::Result<u64> {
        self.source.byte_len()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.source.read_exact_at(buffer, offset)?;
        let skipped = len_usize(self.at.saturating_sub(offset)).unwrap_or(usize::MAX);
        let done = len_usize(offset.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let hidden = HIDDEN.get(done..).unwrap_or_default();
        buffer.iter_mut().skip(skipped).zip(hidden).for_each(|(place, &byte)| *place = byte);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scanned(pickle: &[u8]) -> Scan {
        let mut scanner = Scanner { most: u64::MAX, ..Scanner::default() };
        scanner.pickle(&pickle.to_vec(), 0, len_u64(pickle.len())).unwrap();
        scanner.scan
    }

    fn calls_system(scan: &Scan) -> bool {
        scan.globals.iter().any(|global| global.path() == "os.system" && global.called)
    }

    const PAYLOAD: &[u8] = b"\x80\x04\x8c\x02os\x8c\x06system\x93(X\x02\0\0\0idtR0";
    const REST: &[u8] = b"}q\x01(X\x01\0\0\0a\x8a\x02\xff\x7fcm\nName\n)R\x94U\x03abcS'x'\nI12\nF1.5\n\
        G\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0\x8d\x02\0\0\0\0\0\0\0zzh\x01(imodule\nOther\n.";

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn wherever_a_pickle_is_cut_what_it_has_called_is_known() {
        let whole = [PAYLOAD, REST].concat();
        for len in 0..whole.len() {
            let scan = scanned(&whole[..len]);
            // Before the call is complete, it has not happened.
            assert_eq!(calls_system(&scan), len + 1 >= PAYLOAD.len(), "cut at {len} of {}", whole.len());
            assert!(scan.broken.is_some(), "cut at {len}");
        }
        assert!(scanned(&whole).broken.is_none());
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn frames_that_go_beyond_the_end_hide_nothing() {
        let (protocol, payload) = PAYLOAD.split_at(2);
        let frame = b"\x95\xff\xff\0\0\0\0\0\0";
        for rest in [REST, b"", b"X\xff"] {
            let pickle = [protocol, frame, b"N0", frame, payload, rest].concat();
            let scan = scanned(&pickle);
            assert!(calls_system(&scan) && scan.broken.is_some(), "{scan:?}");
        }
        // A frame that is cut off itself, and more of them than anybody needs.
        assert!(calls_system(&scanned(&[PAYLOAD, &frame[..5]].concat())));
        assert!(scanned(&[protocol, &frame.repeat(100)].concat()).globals.is_empty());
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn whatever_is_changed_behind_a_call_it_stays_known() {
        let whole = [PAYLOAD, REST].concat();
        let mut seed = 1u64;
        for _ in 0..20_000 {
            let mut changed = whole.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = PAYLOAD.len() + usize::try_from(seed >> 33).unwrap() % REST.len();
                changed[at] = seed.to_le_bytes()[3];
            }
            assert!(calls_system(&scanned(&changed)), "{changed:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "takes minutes there")]
    fn many_attributes_of_attributes_are_told_in_bounded_memory() {
        // `getattr(getattr(..., "aaa…"), "aaa…")`, each from the one before, by way of the memo.
        let mut pickle = b"\x80\x02cbuiltins\ngetattr\nq\0X\xff\x0f\0\0".to_vec();
        pickle.extend([b'a'; 0xfff]);
        pickle.extend(b"q\x01cmodule\nName\nq\x02");
        for _ in 0..50_000 {
            pickle.extend(b"0h\0(h\x02h\x01tRq\x02");
        }
        pickle.push(b'.');
        let scan = scanned(&pickle);
        assert!(scan.broken.is_none(), "{:?}", scan.broken);
        let told: usize = scan.globals.iter().map(|global| global.path().len()).sum();
        assert!(scan.globals.len() < 100 && told < 100_000, "{} in {told} bytes", scan.globals.len());
        assert!(scan.dangerous().any(|global| global.path() == "builtins.getattr"));
    }
}
