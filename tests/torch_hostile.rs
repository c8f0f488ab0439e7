//! PyTorch's files made to do harm: whatever they hold, there is no panic, nothing runs, memory and work stay in proportion to the file,
//! and what is damaged is told or does not matter.
#![cfg(feature = "torch")]

#[path = "common/hostile_torch.rs"]
mod hostile;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use dolmen::format::value::Value;
use dolmen::{Builder, Checkpoint, DType, Error, ErrorKind, VerifyOptions};
use hostile::*;

/// Counts, for each thread alone, the bytes in use, the most there have been, and how many allocations there were.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn add(bytes: isize) {
    // While a thread ends its counters may be gone; then nothing is measured any more.
    let _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        let _ = CALLS.try_with(|calls| calls.set(calls.get() + u64::from(bytes > 0)));
    });
}

// SAFETY: everything is passed on to the system's allocator as it came; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // While it moves, both are there.
        add(new_size as isize);
        add(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.realloc(old, layout, new_size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        add(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}

/// What something took.
#[derive(Clone, Copy, Debug)]
struct Taken {
    peak: usize,
    calls: u64,
}

fn taken<T>(work: impl FnOnce() -> T) -> (T, Taken) {
    let (before, calls) = (NOW.get(), CALLS.get());
    PEAK.set(before);
    let result = work();
    (result, Taken { peak: (PEAK.get() - before) as usize, calls: CALLS.get() - calls })
}

const MIB: usize = 1 << 20;

/// How much memory a byte of a file may take while the file is opened, besides a MiB. What costs most are calls of two bytes each; a vector
/// that grows is there twice for a moment, and the index is made, and then held.
const PER_BYTE: usize = 256;

/// The same of a file whose pickle is compressed: it is taken for as much as eight times as long.
const PER_COMPRESSED_BYTE: usize = 8 * PER_BYTE;

#[track_caller]
fn assert_bounded(len: usize, per_byte: usize, taken: Taken) {
    let allowed = MIB + per_byte * len;
    assert!(taken.peak <= allowed, "{} bytes were in use for a file of {len}; {allowed} are allowed", taken.peak);
}

/// Opens a file, and checks what that took.
#[track_caller]
fn open(bytes: &[u8]) -> dolmen::Result<Checkpoint> {
    open_within(PER_BYTE, bytes)
}

#[track_caller]
fn open_within(per_byte: usize, bytes: &[u8]) -> dolmen::Result<Checkpoint> {
    let (opened, taken) = taken(|| Checkpoint::from_bytes(bytes));
    if std::env::var_os("SHOW").is_some() {
        println!(
            "{} bytes of {} ({} each), {} calls",
            taken.peak,
            bytes.len(),
            taken.peak / bytes.len().max(1),
            taken.calls
        );
    }
    assert_bounded(bytes.len(), per_byte, taken);
    if let Err(e) = &opened {
        assert!(e.to_string().len() < 20_000, "a message of {} bytes", e.to_string().len());
        assert!(e.kind() != ErrorKind::InvalidInput, "the caller is told to have done something wrong: {e}");
    }
    opened
}

#[track_caller]
fn refused(bytes: &[u8], kind: ErrorKind, words: &str) -> Error {
    match open(bytes) {
        Ok(opened) => panic!("it opens: {opened:?}"),
        Err(e) => {
            assert!(e.to_string().contains(words), "{words}: {e}");
            assert_eq!(e.kind(), kind, "{e}");
            e
        }
    }
}

fn one_thread() -> VerifyOptions<'static> {
    let mut options = VerifyOptions::default();
    options.threads = 1;
    options
}

/// Name, dtype, shape and strides, and bytes.
type Tensor = (String, DType, [Vec<u64>; 2], Vec<u8>);

/// All that a checkpoint holds.
#[derive(Debug, PartialEq)]
struct Content {
    document: Option<Value>,
    tensors: Vec<Tensor>,
}

fn content(checkpoint: &Checkpoint) -> dolmen::Result<Content> {
    let tensors = checkpoint.tensors().map(|tensor| {
        let tensor = tensor?;
        let bytes = tensor.bytes()?.to_vec();
        Ok((tensor.name().to_owned(), tensor.dtype(), [tensor.shape().to_vec(), tensor.strides().to_vec()], bytes))
    });
    Ok(Content { document: checkpoint.document()?, tensors: tensors.collect::<dolmen::Result<_>>()? })
}

/// Opens what must open, converts it, and checks that the copy holds the same.
#[track_caller]
fn opens(bytes: &[u8]) -> Checkpoint {
    let checkpoint = open(bytes).unwrap_or_else(|e| panic!("{e}"));
    assert!(checkpoint.verify_with(&one_thread()).unwrap().is_valid());
    let copy = converted(&checkpoint).unwrap_or_else(|e| panic!("cannot be converted: {e}"));
    assert_eq!(content(&copy).unwrap(), content(&checkpoint).unwrap());
    checkpoint
}

fn converted(checkpoint: &Checkpoint) -> dolmen::Result<Checkpoint> {
    let mut builder = Builder::new();
    builder.checkpoint(checkpoint)?;
    let copy = Checkpoint::from_bytes(&builder.to_vec()?)?;
    assert!(copy.verify_with(&one_thread()).unwrap().is_valid());
    Ok(copy)
}

fn of_pickle(pickle: &[u8]) -> Vec<u8> {
    archive(pickle, &[])
}

fn document(pickle: &[u8]) -> Value {
    opens(&of_pickle(pickle)).document().unwrap().unwrap()
}

fn floats(count: usize) -> Vec<u8> {
    (0..count).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

// The builders themselves.

#[test]
fn what_is_sound_opens() {
    let (pickle, data) = sound();
    for file in [archive(&pickle, &[("0", &data)]), torch_archive(&pickle, &[("0", &data)])] {
        let checkpoint = opens(&file);
        assert_eq!(checkpoint.tensor("w").unwrap().to_vec::<f32>().unwrap(), [1.0, -2.0, 0.5, 8.0]);
        assert!(checkpoint.tensor("w").unwrap().is_checksummed());
    }
    let checkpoint = opens(&legacy(&pickle, &["0"], &legacy_storage(4, &data)));
    assert_eq!(checkpoint.tensor("w").unwrap().to_vec::<f32>().unwrap(), [1.0, -2.0, 0.5, 8.0]);
}

#[test]
fn the_counting_counts() {
    let (bytes, taken) = taken(|| vec![1u8; 3 * MIB]);
    assert!(taken.peak >= bytes.len() && taken.calls == 1, "{taken:?}");
}

// Pickles that make much of little: the memo.

/// Each level holds the one before twice.
fn doubling(innermost: &[u8], level: impl Fn(Pickle) -> Pickle, levels: u32) -> Vec<u8> {
    let first = Pickle::of_protocol(4).op(innermost).put(0);
    (0..levels).fold(first, |pickle, n| level(pickle.get(n).get(n).op(MARK).get(n).get(n)).put(n + 1)).stop()
}

#[test]
fn billions_of_laughs_stay_references() {
    // The marked twice are dropped where they are not needed, for every level leaves two values on the stack.
    type Level = fn(Pickle) -> Pickle;
    let levels: [(&str, Level); 7] = [
        ("tuples", |p| p.op(TUPLE)),
        ("lists", |p| p.op(b"l")),
        ("dicts", |p| p.op(b"d")),
        ("frozensets", |p| p.op(b"\x91")),
        ("sets of frozensets", |p| p.op(b"\x91\x85cbuiltins\nset\n\x8c\x000cbuiltins\nfrozenset\n0")),
        ("calls", |p| p.op(TUPLE).op(b"0cm\nf\n").op(b"(").op(b"t").op(REDUCE)),
        ("lists of lists", |p| p.op(b"l").op(b"\x85")),
    ];
    for (about, level) in levels {
        for innermost in [&b")"[..], b"]", b"(K\x01K\x02t", b"cm\nf\n"] {
            let file = of_pickle(&doubling(innermost, level, 150));
            let opened = open(&file).unwrap_or_else(|e| panic!("{about}: {e}"));
            let values = opened.document().unwrap().unwrap();
            assert!(values.descendants().count() < 3000, "{about}");
        }
    }
}

#[test]
fn a_memo_of_144_bytes_is_not_cloned() {
    // What the memo holds is fetched, put into a tuple, and memoised again, all under one number.
    let pickle = Pickle::new().op(b"]q\x00").ops(b"h\x00h\x00\x86q\x00", 20).stop();
    assert_eq!(pickle.len(), 2 + 3 + 140 + 1);
    let file = of_pickle(&pickle);
    let (_, taken) = taken(|| open(&file).unwrap());
    assert!(taken.calls < 1000, "{taken:?}");
}

#[test]
fn numbers_of_the_memo_are_not_lengths() {
    let far = Pickle::new().op(LIST).put(u32::MAX).put(u32::MAX - 1).op(b"0").get(u32::MAX).stop();
    assert_eq!(document(&far), Value::List(Vec::new()));
    // Numbers in steps, each just near enough to be taken for the next of a sequence.
    for step in [2, 3, 16, 60, 63, 64, 65, 1000] {
        let pickle = (1..20_000u32).fold(Pickle::new().op(LIST), |pickle, n| pickle.put(n.wrapping_mul(step)));
        opens(&of_pickle(&pickle.stop()));
        let down = (1..20_000u32).rev().fold(Pickle::new().op(LIST), |pickle, n| pickle.put(n.wrapping_mul(step)));
        opens(&of_pickle(&down.stop()));
    }
    refused(&of_pickle(&Pickle::new().get(7).stop()), ErrorKind::Malformed, "the memo has nothing under 7");
    let text = Pickle::new().op(b"]p18446744073709551615\n0g18446744073709551615\n").stop();
    assert_eq!(document(&text), Value::List(Vec::new()));
    refused(&of_pickle(b"]p-1\n."), ErrorKind::Malformed, "memo");
}

#[test]
fn memoising_without_end_costs_little() {
    for part in
        [&b"\x94"[..], b"q\x00", b"h\x00", b"h\x00\x94", b"2", b"20", b"(0", b"(", b"(1", b"N", b"]", b"]2a", b")"]
    {
        let pickle = Pickle::of_protocol(4).op(LIST).op(b"q\x00").ops(part, 300_000 / part.len()).op(NONE).stop();
        let opened = open(&of_pickle(&pickle));
        assert!(opened.is_ok(), "{part:02x?}: {opened:?}");
    }
}

// Pickles that nest.

/// Ways to nest `times` deep, each linear in what it takes.
fn nested(way: usize, times: usize) -> Vec<u8> {
    let pickle = Pickle::of_protocol(4);
    match way {
        0 => pickle.ops(LIST, times).ops(b"a", times - 1),
        1 => pickle.op(NONE).ops(b"\x85", times),
        2 => pickle.ops(b"}N", times).op(NONE).ops(b"s", times),
        3 => pickle.op(b"cm\nf\n").ops(b")R", times),
        4 => pickle.op(b"cm\nf\nq\x00").ops(b"h\x00)R", times).ops(b"b", times - 1),
        5 => pickle.op(b"cm\nf\nq\x00").ops(b"h\x00(", times).op(NONE).ops(b"tR", times),
        6 => pickle.op(b"cm\nf\nq\x00").ops(b"h\x00)\x81", times).ops(b"a", times - 1),
        7 => pickle.ops(b"(", times).op(NONE).ops(b"\x91", times),
        8 => pickle.ops(b"}", times).op(b"K\x01").ops(b"K\x02s0}K\x01", 0).ops(b"N", 1).op(b"s").ops(b"0", 0),
        9 => pickle.op(b"ccollections\ndefaultdict\nq\x00").ops(b"h\x00)R", times).ops(b"b", times - 1),
        10 => pickle.op(b"cbuiltins\nset\nq\x00").ops(b"h\x00(](", times).op(NONE).ops(b"etR", times),
        11 => pickle.op(b"cm\nf\nq\x00").ops(b"h\x00)}N", times).op(NONE).ops(b"s\x92", times),
        12 => pickle.op(b"cm\nf\nq\x00").ops(b"h\x00)RN", times).op(NONE).ops(b"s", times),
        13 => pickle.ops(b"]q\x00", times).ops(b"h\x000a", times - 1),
        14 => pickle.ops(b"]2", times).ops(b"a", times * 2 - 1),
        15 => pickle.ops(b"(N", times).ops(b"t", times),
        // Arguments whose parts have names.
        16 => {
            let function = pickle.op(b"ctorch._tensor\n_rebuild_from_type_v2\nq\x00");
            function.ops(b"(h\x00N", times).op(NONE).ops(b"Nt", times).op(REDUCE)
        }
        // Ordered dictionaries as Python 2 has them.
        _ => {
            let class = pickle.op(b"ccollections\nOrderedDict\nq\x00");
            class.ops(b"h\x00]]Na", times).op(NONE).ops(b"aa\x85R", times)
        }
    }
    .stop()
}

const WAYS: usize = 18;

#[test]
fn a_million_levels_are_a_limit_and_overflow_no_stack() {
    for way in 0..WAYS {
        // On a thread with the stack that threads have.
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
            let opened = open(&of_pickle(&nested(way, 1_000_000)));
            if let Err(e) = opened {
                assert_eq!(e.kind(), ErrorKind::Limit, "way {way}: {e}");
            }
        });
        thread.unwrap().join().unwrap_or_else(|_| panic!("way {way}"));
    }
}

#[test]
fn as_deep_as_a_document_may_be_is_not_too_deep_for_a_stack_and_the_next_level_is_a_limit() {
    for way in 0..WAYS {
        let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || {
            let (mut good, mut bad) = (1, 3000);
            while bad - good > 1 {
                let middle = (good + bad) / 2;
                match open(&of_pickle(&nested(way, middle))) {
                    Ok(_) => good = middle,
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::Limit, "way {way}, {middle} levels: {e}");
                        bad = middle;
                    }
                }
            }
            if !matches!(way, 8) {
                assert!((100..2000).contains(&good), "way {way}: {good} levels open");
            }
            opens(&of_pickle(&nested(way, good)));
        });
        thread.unwrap().join().unwrap_or_else(|_| panic!("way {way}"));
    }
}

// Lengths that are not there.

#[test]
fn lengths_beyond_the_file_are_told_and_not_allocated() {
    let long = (1u64 << 63).to_le_bytes();
    for opcode in [0x8d, 0x8e, 0x96, 0x95] {
        for len in [long, u64::MAX.to_le_bytes(), 5000u64.to_le_bytes(), (1u64 << 40).to_le_bytes()] {
            let file = of_pickle(&Pickle::of_protocol(5).op(&[opcode]).op(&len).op(b"abc").stop());
            refused(&file, ErrorKind::Malformed, if opcode == 0x95 { "frame" } else { "ends in the middle" });
        }
    }
    for opcode in [b'X', b'B', b'T', 0x8b] {
        for len in [0x7FFF_FFFFu32, 5000] {
            let file = of_pickle(&Pickle::of_protocol(4).op(&[opcode]).op(&len.to_le_bytes()).op(b"abc").stop());
            refused(&file, ErrorKind::Malformed, "ends in the middle");
        }
    }
    refused(&of_pickle(&Pickle::new().op(b"\x8b\xFF\xFF\xFF\xFF").stop()), ErrorKind::Malformed, "negative length");
    for opcode in *b"cipgPILFSV" {
        refused(&of_pickle(&Pickle::new().op(&[opcode]).ops(b"1", 100_000).0), ErrorKind::Malformed, "");
    }
}

#[test]
fn integers_of_any_length_are_read_and_shown_in_linear_time() {
    let long = Pickle::new().op(b"\x8b").op(&300_000u32.to_le_bytes()).ops(b"\x7E", 300_000).stop();
    assert!(document(&long).tree(Default::default()).to_string().len() < 1_000_000);
    // Decimal: 1000 numbers of 4000 digits, which digit by digit would take a billion steps.
    let digits = Pickle::new().op(LIST).op(MARK).ops(&[b"L".as_slice(), &[b'7'; 4000], b"L\n"].concat(), 1000);
    let Value::List(numbers) = document(&digits.op(APPENDS).stop()) else { panic!() };
    assert_eq!(numbers.len(), 1000);
    refused(&of_pickle(&Pickle::new().op(b"L").ops(b"9", 4301).op(b"\n").stop()), ErrorKind::Malformed, "integer");
}

// The same thing again and again.

#[test]
fn one_list_handed_to_thousands_of_sets_is_a_limit() {
    let list = Pickle::of_protocol(4).op(LIST).op(MARK).ops(b"K\x01", 20_000).op(APPENDS).put(0).op(b"0");
    let sets = list.op(LIST).op(MARK).ops(b"cbuiltins\nset\nj\0\0\0\0\x85R", 2000).op(APPENDS).stop();
    refused(&of_pickle(&sets), ErrorKind::Limit, "repeats itself");
}

#[test]
fn a_list_of_the_sets_that_it_is_handed_to_does_not_pile_up() {
    // Each set holds the list, whose last elements are those sets: what is still to be visited must not grow with the product.
    for (sets, others) in [(50, 5000), (1000, 1000), (3000, 20)] {
        let mut pickle = Pickle::of_protocol(4).op(LIST).put(0);
        for n in 0..sets {
            pickle = pickle.op(b"cbuiltins\nset\n").get(0).op(b"\x85R").put(n + 1).op(b"0");
        }
        pickle = pickle.op(MARK).op(b"]").put(99_999);
        pickle = (0..others).fold(pickle, |pickle, _| pickle.get(99_999));
        pickle = (1..=sets).fold(pickle, |pickle, n| pickle.get(n)).op(APPENDS);
        let _ = open(&of_pickle(&pickle.stop()));
    }
}

/// Keys that differ, with a value each.
fn numbered(count: usize) -> Vec<u8> {
    (0..count as u16).flat_map(|n| [&b"M"[..], &n.to_le_bytes(), b"K\x02"].concat()).collect()
}

#[test]
fn one_state_built_onto_thousands_of_objects_is_one_state() {
    let state = Pickle::of_protocol(4).op(DICT).op(MARK).op(&numbered(2000)).op(SETITEMS).put(0).op(b"0");
    let objects = state.op(b"cm\nf\nq\x010").op(LIST).op(MARK).ops(b"h\x01)Rj\0\0\0\0b", 5000).op(APPENDS).stop();
    let file = of_pickle(&objects);
    let opened = opens(&file);
    assert!(opened.header().index_len() < 4 * file.len() as u64);
}

#[test]
fn one_tuple_of_arguments_and_one_dict_of_keywords_handed_to_thousands_is_bounded() {
    let many = |handed: &[u8], call: &[u8]| {
        let first = Pickle::of_protocol(4).op(MARK).op(&numbered(4000)).op(handed).put(0).op(b"0cm\nf\nq\x010");
        of_pickle(&first.op(LIST).op(MARK).ops(call, 5000).op(APPENDS).stop())
    };
    refused(&many(b"t", b"h\x01j\0\0\0\0R"), ErrorKind::Limit, "repeats itself");
    refused(&many(b"d", b"h\x01)j\0\0\0\0\x92"), ErrorKind::Limit, "repeats itself");
    let counter = b"ccollections\nCounter\nj\0\0\0\0\x85R";
    refused(&many(b"d", counter), ErrorKind::Limit, "repeats itself");
}

/// A NumPy array of bytes, whose content is in the memo.
fn array(pickle: Pickle, dtype: &str, len: i64, content: u32) -> Pickle {
    let made = pickle.global("numpy._core.multiarray", "_reconstruct").op(MARK).global("numpy", "ndarray");
    let made = made.ints(&[0]).op(b"C\x01b").op(TUPLE).op(REDUCE).op(MARK).op(b"K\x01").ints(&[len]);
    let made = made.global("numpy", "dtype").op(MARK).text(dtype).bool(false).bool(true).op(TUPLE).op(REDUCE);
    let made =
        made.op(MARK).op(b"K\x03").text("<").op(b"NNNJ\xFF\xFF\xFF\xFFJ\xFF\xFF\xFF\xFFK\x00").op(TUPLE).op(BUILD);
    made.bool(false).get(content).op(TUPLE).op(BUILD)
}

#[test]
fn the_same_bytes_as_thousands_of_arrays_are_kept_once() {
    for len in [100usize, 4000, 4096, 100_000] {
        let mut pickle = Pickle::of_protocol(4).bytes(&vec![7; len]).put(0).op(b"0").op(LIST).op(MARK);
        for _ in 0..1000 {
            pickle = array(pickle, "u1", len as i64, 0);
        }
        let opened = opens(&of_pickle(&pickle.op(APPENDS).stop()));
        assert_eq!((opened.len(), opened.storage_count()), (1000, 1), "{len} bytes");
    }
}

#[test]
fn arrays_that_differ_on_the_length_of_the_same_bytes_are_refused() {
    // In UTF-8 these are 10 000 bytes; the array that takes them for 6000 is right, for half of them are two bytes long.
    let text = format!("{}{}", "a".repeat(2000), "\u{E9}".repeat(4000));
    let content = Pickle::of_protocol(4).global("_codecs", "encode").op(MARK).text(&text).text("latin1").op(TUPLE);
    let content = content.op(REDUCE).put(0).op(b"0").op(LIST).op(MARK);
    opens(&of_pickle(&array(content.clone(), "u1", 6000, 0).op(APPENDS).stop()));
    for wrong in [5000, 5999, 6001, 10_000] {
        let pickle = array(array(content.clone(), "u1", 6000, 0), "u1", wrong, 0).op(APPENDS).stop();
        refused(&of_pickle(&pickle), ErrorKind::Malformed, "bytes");
    }
}

#[test]
fn tensors_of_many_axes_made_of_one_tuple_of_arguments_are_bounded() {
    for rank in [0usize, 1, 8, 64] {
        let (shape, strides) = (vec![1; rank], vec![7; rank]);
        let call = Pickle::part().tensor("0", 4, 0, &shape, &strides).0;
        // All but the call itself, which is then made again and again of what the memo holds.
        let head = &call[b"ctorch._utils\n_rebuild_tensor_v2\n".len()..call.len() - 1];
        let pickle = Pickle::of_protocol(4).op(b"ctorch._utils\n_rebuild_tensor_v2\nq\x000").op(head).op(b"q\x010");
        let pickle = pickle.op(LIST).op(MARK).ops(b"h\x00h\x01R", 20_000).op(APPENDS).stop();
        if let Err(e) = open(&archive(&pickle, &[("0", &floats(4))])) {
            assert_eq!(e.kind(), ErrorKind::Limit, "rank {rank}: {e}");
        }
    }
}

#[test]
fn long_keys_that_name_many_tensors_are_bounded() {
    let call = Pickle::part().tensor("0", 4, 0, &[4], &[1]).0;
    let head = &call[b"ctorch._utils\n_rebuild_tensor_v2\n".len()..call.len() - 1];
    for len in [10, 300, 600, 5000] {
        let pickle = Pickle::of_protocol(4).op(b"ctorch._utils\n_rebuild_tensor_v2\nq\x000").op(head).op(b"q\x010");
        let pickle = pickle.op(DICT).text(&"\u{E9}".repeat(len)).op(LIST).op(MARK);
        let pickle = pickle.ops(b"h\x00h\x01R", 20_000).op(APPENDS).op(b"s").stop();
        if let Err(e) = open(&archive(&pickle, &[("0", &floats(4))])) {
            assert_eq!(e.kind(), ErrorKind::Limit, "{len}: {e}");
        }
    }
}

#[test]
fn names_that_collide_are_found_in_linear_time() {
    // Every name that would be given next is a key already; then the same name is asked for as often, as positions beyond the longest
    // path do not count.
    let call = Pickle::part().tensor("0", 4, 0, &[4], &[1]).0;
    let head = &call[b"ctorch._utils\n_rebuild_tensor_v2\n".len()..call.len() - 1];
    let many = |n: usize| {
        let mut pickle = Pickle::of_protocol(4).op(b"ctorch._utils\n_rebuild_tensor_v2\nq\x000").op(head).op(b"q\x010");
        pickle = pickle.op(DICT).text(&"a".repeat(500)).op(DICT).op(MARK);
        let key = "b".repeat(20);
        for i in 0..n {
            pickle = pickle.text(&format!("{key}#{}", i + 2)).op(b"h\x00h\x01R");
        }
        pickle = pickle.text(&key).op(LIST).op(MARK).ops(b"h\x00h\x01R", n).op(APPENDS).op(SETITEMS).op(b"s");
        // So that the budget is no reason to stop.
        let filler = "x".repeat(200 * n);
        archive(&pickle.put(9).op(b"0").text(&filler).op(b"0").get(9).stop(), &[("0", &floats(4))])
    };
    let [(_, few), (checkpoint, more)] = [2000, 4000].map(|n| {
        let file = many(n);
        taken(|| open(&file).unwrap())
    });
    assert_eq!(checkpoint.len(), 8000);
    assert!(more.calls < few.calls * 5 / 2, "{few:?} for 2000, {more:?} for 4000");
}

#[test]
fn a_text_that_many_refer_to_is_decoded_once() {
    // References of two bytes to a call that takes 4000 bytes to understand, and calls of six bytes that share such a text.
    let encode = Pickle::of_protocol(4).global("_codecs", "encode").op(b"q\x00").op(MARK);
    let encode = encode.text(&"\u{E9}".repeat(2000)).op(b"q\x01").text("latin1").op(b"q\x02").op(TUPLE).op(REDUCE);
    let encode = encode.op(b"q\x030");
    let few = encode.clone().op(LIST).op(MARK).ops(b"h\x03", 1_000_000).op(APPENDS).stop();
    opens(&of_pickle(&few));
    let many = encode.op(LIST).op(MARK).ops(b"h\x00h\x01h\x02\x86R", 300_000).op(APPENDS).stop();
    refused(&of_pickle(&many), ErrorKind::Limit, "repeats itself");
}

#[test]
fn one_list_of_pairs_for_many_ordered_dictionaries_is_bounded() {
    // As Python 2 made them; of the second list the last item is no pair, so that all are looked at in vain; and as hooks.
    for last in [&b"N"[..], b"h\x01"] {
        let pairs = Pickle::of_protocol(4).op(b"K\x01K\x02\x86q\x010](").ops(b"h\x01", 100_000).op(last).op(b"eq\x020");
        let class = pairs.clone().op(b"ccollections\nOrderedDict\nq\x030](");
        let many = class.ops(b"h\x03h\x02\x85R", 40_000).op(b"e").stop();
        refused(&of_pickle(&many), ErrorKind::Limit, "repeats itself");
        let call = pairs.op(b"ctorch._utils\n_rebuild_tensor_v2\nq\x030").op(MARK);
        let call = call.storage("FloatStorage", "0", 4).int(0).ints(&[4]).ints(&[1]).bool(false);
        let call = call.op(b"ccollections\nOrderedDict\nh\x02\x85Rtq\x040](").ops(b"h\x03h\x04R", 40_000).op(b"e");
        if let Err(e) = open(&archive(&call.stop(), &[("0", &floats(4))])) {
            assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
        }
    }
}

#[test]
fn long_names_of_classes_that_many_refer_to_are_bounded() {
    for len in [10, 60, 127, 500, 1000] {
        let name = "n".repeat(len);
        let pickle = Pickle::of_protocol(4).global("m", &name).op(b"q\x00").op(LIST).op(MARK);
        if let Err(e) = open(&of_pickle(&pickle.ops(b"h\x00", 200_000).op(APPENDS).stop())) {
            assert_eq!(e.kind(), ErrorKind::Limit, "{len}: {e}");
        }
        let pickle = Pickle::of_protocol(4).text("m").text(&name).op(b"q\x010q\x000").op(LIST).op(MARK);
        if let Err(e) = open(&of_pickle(&pickle.ops(b"h\x00h\x01\x93", 200_000).op(APPENDS).stop())) {
            assert_eq!(e.kind(), ErrorKind::Limit, "{len}: {e}");
        }
    }
    let many: String = (0..50_000).map(|n| format!("c{n}\nx\n")).collect();
    opens(&of_pickle(&Pickle::of_protocol(4).op(LIST).op(MARK).op(many.as_bytes()).op(APPENDS).stop()));
}

/// The tensors of a dictionary with these entries, which are pickled; and how many entries it has.
#[track_caller]
fn entries(before: &[u8], stored: &[u8]) -> (Vec<String>, usize) {
    let pickle = Pickle::of_protocol(4).op(before).op(MARK).op(stored).op(SETITEMS).stop();
    let file = archive(&pickle, &[("0", &floats(4)), ("1", &floats(4))]);
    let checkpoint = opens(&file);
    let Some(Value::Dict(dict)) = checkpoint.document().unwrap() else { panic!("no dictionary") };
    (checkpoint.tensors().map(|t| t.unwrap().name().to_owned()).collect(), dict.entries.len())
}

#[test]
fn of_keys_that_python_takes_for_the_same_the_last_value_counts_at_the_first_place() {
    let tensor = |key: &str| Pickle::part().tensor(key, 4, 0, &[4], &[1]).0;
    let a = |key: &str| [&Pickle::part().text("a").0[..], &tensor(key)].concat();
    let b = [&Pickle::part().text("b").0[..], b"K\x05"].concat();
    let stored = [&a("0")[..], &b, &a("1")].concat();
    for before in [&b"}"[..], b"ccollections\nOrderedDict\n)R", b"ccollections\nCounter\n)R"] {
        assert_eq!(entries(before, &stored), (vec!["a".to_owned()], 2));
        let pickle = Pickle::of_protocol(4).op(before).op(MARK).op(&stored).op(SETITEMS).stop();
        let file = archive(&pickle, &[("0", &floats(4)), ("1", &[0; 16])]);
        let checkpoint = opens(&file);
        assert_eq!(checkpoint.tensor("a").unwrap().bytes().unwrap()[..], [0; 16]);
        let Some(Value::Dict(dict)) = checkpoint.document().unwrap() else { panic!() };
        let keys: Vec<&Value> = dict.entries.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, [&Value::from("a"), &Value::from("b")]);
    }
    // One by one, as the arguments of a Counter, and as the pairs of Python 2.
    let one = |bytes: &[u8]| [bytes, b"s"].concat();
    let dict = [b"}", &one(&a("0"))[..], &one(&a("1"))].concat();
    for pickle in [
        dict.clone(),
        [b"ccollections\nCounter\n", &dict[..], b"\x85R"].concat(),
        [b"ccollections\nOrderedDict\n](", &a("0")[..], b"\x86", &a("1"), b"\x86e\x85R"].concat(),
        [b"cm\nf\n)R", &dict[1..]].concat(),
    ] {
        let file = archive(&Pickle::of_protocol(4).op(&pickle).stop(), &[("0", &floats(4)), ("1", &[0; 16])]);
        let checkpoint = opens(&file);
        let names: Vec<String> = checkpoint.tensors().map(|t| t.unwrap().name().to_owned()).collect();
        assert_eq!(names, ["a"]);
        assert_eq!(checkpoint.tensor("a").unwrap().bytes().unwrap()[..], [0; 16]);
    }
}

#[test]
fn keys_are_compared_as_python_compares_them() {
    let float = |value: f64| Pickle::part().float(value).0;
    let long = |byte: u8| [&b"\x8a\x09\0\0\0\0\0\0\0\0"[..], &[byte]].concat();
    let text = |text: &str| Pickle::part().text(text).0;
    let encoded = |text: &str| {
        let text = Pickle::part().global("_codecs", "encode").op(MARK).text(text).text("latin1");
        text.op(TUPLE).op(REDUCE).0
    };
    let long_text = "x".repeat(5000);
    let all = [
        (vec![b"K\x01".to_vec(), b"\x88".to_vec(), float(1.0), b"I1\n".to_vec(), b"L1L\n".to_vec()], 1),
        (vec![b"K\x00".to_vec(), b"\x89".to_vec(), float(0.0), float(-0.0)], 1),
        (vec![float(-5.0), b"J\xfb\xff\xff\xff".to_vec(), b"\x8a\x01\xfb".to_vec()], 1),
        (vec![float(2f64.powi(64)), long(1)], 1),
        (vec![float(-(2f64.powi(64))), long(0xFF)], 1),
        (vec![float(2f64.powi(65)), long(2), long(3)], 2),
        (vec![float(-(2f64.powi(63))), b"\x8a\x08\0\0\0\0\0\0\0\x80".to_vec(), float(2f64.powi(63))], 2),
        (vec![float(0.5), float(0.5), float(-0.5)], 2),
        (vec![float(f64::INFINITY), float(f64::NEG_INFINITY), float(f64::INFINITY)], 2),
        (vec![float(f64::NAN), float(f64::NAN)], 2),
        (vec![b"N".to_vec(), b"N".to_vec(), b"K\x00".to_vec()], 2),
        (vec![text("1"), b"K\x01".to_vec(), b"C\x011".to_vec()], 3),
        (vec![text("a"), b"U\x01a".to_vec(), b"Va\n".to_vec(), b"S'a'\n".to_vec()], 1),
        (vec![text(&"y".repeat(500)), text(&"y".repeat(500)), text(&"z".repeat(500))], 2),
        (vec![text(&long_text), text(&long_text), text(&long_text.replacen('x', "y", 1))], 2),
        (vec![b"C\x01\xe9".to_vec(), encoded("\u{E9}"), encoded("\u{EA}")], 2),
        (vec![b"K\x01K\x02\x86".to_vec(), [float(1.0), float(2.0), b"\x86".to_vec()].concat()], 1),
        (vec![b"K\x01K\x02\x86\x85".to_vec(), b"K\x01K\x02\x86\x85".to_vec(), b"K\x01\x85\x85".to_vec()], 2),
        (vec![b")".to_vec(), b")".to_vec(), b"N\x85".to_vec()], 2),
        (vec![b"cm\nf\n".to_vec(), b"cm\nf\n".to_vec(), b"cm\ng\n".to_vec()], 2),
        (vec![b"cm\nf\n)R".to_vec(), b"cm\nf\n)R".to_vec()], 2),
    ];
    for (keys, distinct) in all {
        let stored: Vec<u8> = keys.iter().flat_map(|key| [key, &b"N"[..]].concat()).collect();
        assert_eq!(entries(b"}", &stored), (Vec::new(), distinct), "{keys:?}");
    }
}

#[test]
fn a_hundred_thousand_keys_that_are_the_same_take_linear_time() {
    let tensor = Pickle::part().tensor("0", 4, 0, &[4], &[1]).0;
    let pickle = Pickle::of_protocol(4).op(&tensor).op(b"q\x000").text(&"k".repeat(4000)).op(b"q\x010").op(DICT);
    for key in [&b"h\x01"[..], b"K\x07", b"\x8c\x01k", b"h\x01\x85"] {
        let stored = [key, b"h\x00"].concat();
        let pickle = pickle.clone().op(MARK).ops(&stored, 100_000).op(SETITEMS).stop();
        let file = archive(&pickle, &[("0", &floats(4))]);
        let start = std::time::Instant::now();
        let (checkpoint, taken) = taken(|| open(&file).unwrap());
        assert_eq!(checkpoint.len(), 1);
        assert!(start.elapsed().as_secs() < 20 && taken.calls < 1_000_000, "{taken:?} in {:?}", start.elapsed());
    }
    // And such as differ.
    let many: String = (0..100_000).map(|n| format!("I{n}\nNF{n}.0\nN")).collect();
    assert_eq!(entries(b"}", many.as_bytes()).1, 100_000);
}

#[test]
fn small_objects_by_the_thousand_are_bounded() {
    for part in [
        &b"h\x00)R"[..],
        b")R0h\x00",
        b"h\x00)\x81",
        b"]",
        b"}",
        b")",
        b"(t",
        b"(l",
        b"(d",
        b"\x8f",
        b"(\x91",
        b"K\x01\x85",
        b"]K\x01a",
        b"}K\x01K\x02s",
        b"h\x00)R}b",
        b"\x82\x01",
        b"\x8c\x00",
        b"\x8c\x01a",
        b"C\x00",
        b"G\0\0\0\0\0\0\0\0",
        b"h\x01)R",
        b"h\x02)R",
        b"h\x03K\x01K\x02\x86R",
        b"h\x00)h\x04\x92",
        b"\x8a\x09\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x00",
        b"U\x01a",
        b"h\x00",
        b"h\x05",
        b"(K\x01o",
        b"(h\x00o",
        b"(im\nf\n",
        b"I1\n",
        b"Vx\n",
        b"S'x'\n",
        b"F1\n",
    ] {
        let pickle = Pickle::of_protocol(4).global("m", "f").op(b"q\x00").global("builtins", "set").op(b"q\x01");
        let pickle =
            pickle.global("collections", "OrderedDict").op(b"q\x02").global("builtins", "complex").op(b"q\x03");
        let pickle = pickle.op(b"}q\x04").text(&"t".repeat(64)).op(b"q\x05").op(LIST).op(MARK);
        match open(&of_pickle(&pickle.ops(part, 400_000 / part.len()).op(APPENDS).stop())) {
            Ok(_) => {}
            Err(e) => assert!(matches!(e.kind(), ErrorKind::Limit | ErrorKind::Malformed), "{part:02x?}: {e}"),
        }
    }
}

// Opcodes.

#[test]
fn every_opcode_alone_and_in_pairs_is_an_error_or_a_value() {
    let mut count = 0;
    for first in 0..=255u8 {
        for second in 0..=255u8 {
            let pickle = [&b"\x80\x04]}N("[..], &[first, second], b"\x01\n\0\0\0\0\0\0\0\0."].concat();
            count += usize::from(open(&of_pickle(&pickle)).is_ok());
        }
    }
    assert!(count > 0);
    refused(&of_pickle(b"\x80\x02\xFF."), ErrorKind::Malformed, "0xff");
    refused(&of_pickle(b""), ErrorKind::Malformed, "ends in the middle");
    refused(&of_pickle(b"."), ErrorKind::Malformed, "stack is empty");
    refused(&of_pickle(b"N.N."), ErrorKind::Malformed, "goes on for 2 bytes");
    refused(&of_pickle(b"\x80\x06N."), ErrorKind::UnsupportedVersion, "protocol 6");
    refused(&of_pickle(b"\x80\x05\x97."), ErrorKind::UnsupportedVersion, "outside");
    refused(&of_pickle(b"\x80\x05N\x98."), ErrorKind::UnsupportedVersion, "outside");
}

#[test]
fn codes_of_the_extension_registry_stay_codes() {
    for (opcode, code) in [(&b"\x82\x07"[..], 7), (b"\x83\x07\x01", 0x107), (b"\x84\x07\0\0\x80", -0x7FFF_FFF9)] {
        let value = document(&Pickle::of_protocol(4).op(opcode).stop());
        assert!(value.tree(Default::default()).to_string().contains(&code.to_string()), "{value:?}");
    }
}

#[test]
fn nothing_is_run() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("ran");
    let command = format!("touch {}", mark.display());
    for (module, name) in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "getoutput")] {
        let ways = [
            Pickle::new().global(module, name).op(MARK).text(&command).op(TUPLE).op(REDUCE).stop(),
            Pickle::new().op(MARK).text(&command).op(b"i").op(format!("{module}\n{name}\n").as_bytes()).stop(),
            Pickle::new().op(MARK).global(module, name).text(&command).op(b"o").stop(),
            Pickle::of_protocol(4).text(module).text(name).op(b"\x93").text(&command).op(b"\x85\x81").stop(),
            Pickle::new()
                .global("builtins", "getattr")
                .op(MARK)
                .global(module, "x")
                .text(name)
                .op(TUPLE)
                .op(REDUCE)
                .op(MARK)
                .text(&command)
                .op(TUPLE)
                .op(REDUCE)
                .stop(),
        ];
        for pickle in ways {
            let Value::Object(object) = document(&pickle) else { panic!("{module}.{name} is understood") };
            assert_eq!(object.args, Some(Value::Tuple(vec![Value::from(command.as_str())])));
        }
    }
    assert!(!mark.exists());
}

// Tensors that do not fit.

/// Tensors over a storage of 16 floats, by each function that takes a place in a storage.
fn placed(offset: i64, shape: &[i64], strides: &[i64]) -> Vec<(&'static str, Vec<u8>)> {
    let place = |p: Pickle, class: &str, count: i64| {
        p.op(MARK).storage(class, "0", count).int(offset).ints(shape).ints(strides)
    };
    let args = |p: Pickle| place(p, "FloatStorage", 16).bool(false).hooks().op(TUPLE);
    let v2 = |p: Pickle| args(p.global("torch._utils", "_rebuild_tensor_v2"));
    let new = Pickle::new;
    vec![
        ("v1", place(new().global("torch._utils", "_rebuild_tensor"), "FloatStorage", 16).op(TUPLE).op(REDUCE)),
        ("v2", v2(new()).op(REDUCE)),
        (
            "v3",
            place(new().global("torch._utils", "_rebuild_tensor_v3"), "UntypedStorage", 64)
                .bool(false)
                .hooks()
                .global("torch", "uint32")
                .op(TUPLE)
                .op(REDUCE),
        ),
        (
            "parameter",
            v2(new().global("torch._utils", "_rebuild_parameter").op(MARK))
                .op(REDUCE)
                .bool(true)
                .hooks()
                .op(TUPLE)
                .op(REDUCE),
        ),
        (
            "quantised",
            place(new().global("torch._utils", "_rebuild_qtensor"), "QInt32Storage", 16)
                .op(MARK)
                .global("torch", "per_tensor_affine")
                .float(1.0)
                .int(0)
                .op(TUPLE)
                .bool(false)
                .hooks()
                .op(TUPLE)
                .op(REDUCE),
        ),
        (
            "subclass",
            args(
                new()
                    .global("torch._tensor", "_rebuild_from_type_v2")
                    .op(MARK)
                    .global("torch._utils", "_rebuild_tensor_v2")
                    .global("m", "T"),
            )
            .op(DICT)
            .op(TUPLE)
            .op(REDUCE),
        ),
    ]
    .into_iter()
    .map(|(about, pickle)| (about, pickle.stop()))
    .collect()
}

#[test]
fn tensors_beyond_their_storage_are_refused_by_each_function() {
    let data = floats(16);
    for (about, pickle) in placed(3, &[3, 4], &[4, 1]) {
        let opened = opens(&archive(&pickle, &[("0", &data)]));
        assert_eq!(opened.nth(0).unwrap().shape(), [3, 4], "{about}");
    }
    let huge = i64::MAX;
    for (offset, shape, strides) in [
        (0, &[17][..], &[1][..]),
        (1, &[16], &[1]),
        (16, &[1], &[1]),
        (0, &[4, 4], &[5, 1]),
        (0, &[huge], &[1]),
        (0, &[huge, 2], &[1, 1]),
        (0, &[huge, huge, 0], &[1, 1, 1]),
        (0, &[2, 2], &[huge, huge]),
        (huge, &[1], &[1]),
        (huge / 4, &[1], &[1]),
        (0, &[1 << 31, 1 << 31], &[0, 0]),
    ] {
        for (about, pickle) in placed(offset, shape, strides) {
            let file = archive(&pickle, &[("0", &data)]);
            match open(&file) {
                Ok(opened) => {
                    // Elements without number, all in one place: they may be, and are never made.
                    assert!(strides.iter().all(|&stride| stride == 0), "{about}: {offset} {shape:?} {strides:?} opens");
                    assert!(opened.nth(0).unwrap().element_count() == 1 << 62);
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::Malformed, "{about}: {offset} {shape:?} {strides:?}: {e}"),
            }
        }
    }
}

#[test]
fn what_no_tensor_can_have_is_no_tensor() {
    let data = floats(16);
    let many = vec![1; 1000];
    for (offset, shape, strides) in [
        (-1, &[1][..], &[1][..]),
        (0, &[-1], &[1]),
        (0, &[1], &[-1]),
        (0, &[2, 2], &[1]),
        (0, &[], &[1]),
        (0, &many, &many),
        (i64::MIN, &[1], &[1]),
        (0, &[i64::MIN, i64::MIN], &[1, 1]),
    ] {
        for (about, pickle) in placed(offset, shape, strides) {
            let opened = opens(&archive(&pickle, &[("0", &data)]));
            let document = opened.document().unwrap().unwrap();
            assert!(matches!(document, Value::Object(_)), "{about}: {offset} {shape:?} {strides:?}: {document:?}");
            assert!(opened.tensors().all(|tensor| tensor.unwrap().shape() == [16] || about == "v3"), "{about}");
        }
    }
}

#[test]
fn views_that_expand_to_terabytes_are_kept_as_they_are() {
    let pickle = Pickle::new().tensor("0", 4, 0, &[1 << 20, 1 << 20, 4], &[0, 0, 1]).stop();
    let file = archive(&pickle, &[("0", &floats(4))]);
    let opened = opens(&file);
    let tensor = opened.nth(0).unwrap();
    assert_eq!((tensor.contiguous_byte_len(), tensor.byte_len()), (1 << 44, 16));
    let (e, taken) = taken(|| tensor.to_vec::<f32>().unwrap_err());
    assert!(e.kind() == ErrorKind::Limit && taken.peak < 10_000, "{e} {taken:?}");
    let (copy, _) = self::taken(|| converted(&opened).unwrap());
    assert_eq!(copy.nth(0).unwrap().strides()[..2], [0, 0]);
}

#[cfg(all(feature = "fs", feature = "safetensors"))]
#[test]
fn views_that_expand_to_terabytes_are_converted_to_dolmen_alone() {
    use dolmen::foreign::{ConvertOptions, convert};
    let dir = tempfile::tempdir().unwrap();
    let pickle = Pickle::new().tensor("0", 4, 0, &[1 << 20, 1 << 20, 4], &[0, 0, 1]).stop();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("in.pt"), archive(&pickle, &[("0", &floats(4))])).unwrap();
    let options = ConvertOptions::new();
    assert!(convert(path("in.pt"), path("out.dolmen"), &options).unwrap().is_empty());
    assert!(std::fs::metadata(path("out.dolmen")).unwrap().len() < 4096);
    let e = convert(path("in.pt"), path("out.safetensors"), &options).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
    assert!(!path("out.safetensors").exists());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn storages_that_are_spoken_of_in_two_ways_or_are_not_there_are_refused() {
    let data = floats(16);
    let two = |one: (&str, i64), other: (&str, i64)| {
        let pickle = Pickle::new().op(MARK).storage(one.0, "0", one.1).storage(other.0, "0", other.1).op(TUPLE).stop();
        archive(&pickle, &[("0", &data)])
    };
    opens(&two(("FloatStorage", 16), ("FloatStorage", 16)));
    for other in
        [("IntStorage", 16), ("DoubleStorage", 8), ("UntypedStorage", 64), ("FloatStorage", 8), ("QInt32Storage", 16)]
    {
        refused(&two(("FloatStorage", 16), other), ErrorKind::Malformed, "storage \"0\"");
    }
    let one = |class: &str, key: &str, count: i64| Pickle::new().storage(class, key, count).stop();
    refused(&archive(&one("FloatStorage", "1", 16), &[("0", &data)]), ErrorKind::Malformed, "not in the file");
    refused(
        &archive(&one("FloatStorage", "../data.pkl", 16), &[("0", &data)]),
        ErrorKind::Malformed,
        "not in the file",
    );
    for count in [0, 15, 17, 1 << 40, i64::MAX] {
        let file = archive(&one("DoubleStorage", "0", count), &[("0", &data)]);
        refused(&file, ErrorKind::Malformed, "storage \"0\"");
    }
    for count in [-1, i64::MIN] {
        refused(&archive(&one("FloatStorage", "0", count), &[("0", &data)]), ErrorKind::Malformed, "persistent id");
    }
    let ids = [&b"N"[..], b")", b"]", b"X\x01\0\0\0a", b"cm\nf\n", b"(X\x07\0\0\0storageNNNNt", b"(X\x06\0\0\0modulet"];
    for id in ids {
        refused(&of_pickle(&Pickle::new().op(id).op(PERSISTENT).stop()), ErrorKind::Malformed, "persistent id");
    }
    let long_key = "k".repeat(4000);
    let ids = Pickle::new().storage("FloatStorage", &long_key, 0);
    refused(&of_pickle(&ids.stop()), ErrorKind::Malformed, "");
}

// Archives.

/// The records of a sound checkpoint, one of them changed.
fn changed(which: usize, change: impl FnOnce(&mut Entry)) -> Vec<u8> {
    let (pickle, data) = sound();
    let mut zip = Zip::new(records(&pickle, &[("0", &data)]));
    change(&mut zip.entries[which]);
    zip.build()
}

#[test]
fn headers_that_disagree_are_refused() {
    let malformed = ErrorKind::Malformed;
    for which in 0..4 {
        for described in [false, true] {
            let with = |change: &dyn Fn(&mut Entry)| {
                changed(which, |entry| {
                    if described {
                        entry.described();
                    }
                    change(entry);
                })
            };
            opens(&with(&|_| {}));
            refused(&with(&|e| e.local.name = b"archive/data.pkm".to_vec()), malformed, "another name");
            refused(&with(&|e| e.local.name = [&e.local.name[..], b"/"].concat()), malformed, "");
            refused(&with(&|e| e.local.flags ^= UTF8), malformed, "other flags");
            refused(&with(&|e| e.local.flags ^= DESCRIPTOR), malformed, "flags");
            refused(&with(&|e| e.local.flags ^= 1), malformed, "flags");
            refused(&with(&|e| e.local.method = 8), malformed, "another method");
            refused(&with(&|e| e.local.stored_len = 1), malformed, "other lengths");
            refused(&with(&|e| e.local.len = 1), malformed, "other lengths");
            refused(&with(&|e| e.local.crc32 = 1), malformed, "another CRC-32");
            refused(&with(&|e| e.header_offset = Some(1)), malformed, "");
            refused(&with(&|e| e.header_offset = Some(0xFFFF_FFF0)), malformed, "in front of");
            refused(&with(&|e| e.header_offset = Some(u32::MAX)), malformed, "zip64");
        }
    }
}

#[test]
fn descriptors_that_disagree_are_refused_and_all_kinds_are_read() {
    let (_, data) = sound();
    let crc = dolmen::format::checksum::crc32(&data);
    let wide = |signature: &[u8]| [signature, &crc.to_le_bytes(), &16u64.to_le_bytes(), &16u64.to_le_bytes()].concat();
    for good in [descriptor(true, crc, 16, 16), descriptor(false, crc, 16, 16), wide(b"PK\x07\x08"), wide(b"")] {
        opens(&changed(2, |entry| {
            entry.described();
            entry.descriptor = good.clone();
        }));
    }
    for bad in [
        descriptor(true, crc ^ 1, 16, 16),
        descriptor(true, crc, 15, 16),
        descriptor(true, crc, 16, 17),
        descriptor(false, 0, 16, 16),
        wide(b"PK\x07\x07"),
        descriptor(true, crc, 16, 16)[..15].to_vec(),
        Vec::new(),
    ] {
        let file = changed(2, |entry| {
            entry.described();
            entry.descriptor = bad.clone();
        });
        refused(&file, ErrorKind::Malformed, "");
    }
}

#[test]
fn zip64_numbers_are_read_where_they_are_marked_and_one_field_is_all_there_may_be() {
    let long = |entry: &mut Entry, numbers: &[u64]| {
        for header in [&mut entry.local, &mut entry.central] {
            (header.stored_len, header.len) = (u32::MAX, u32::MAX);
            header.extra = zip64(numbers);
        }
    };
    opens(&changed(2, |entry| long(entry, &[16, 16])));
    opens(&changed(2, |entry| entry.central.extra = zip64(&[99, 99, 99])));
    // As `zipfile` writes what may become long: numbers behind markers in front, plain ones in the directory.
    opens(&changed(2, |entry| {
        (entry.local.stored_len, entry.local.len) = (u32::MAX, u32::MAX);
        entry.local.extra = zip64(&[16, 16]);
    }));
    opens(&changed(2, |entry| {
        entry.header_offset = Some(u32::MAX);
        entry.central.extra = zip64(&[{
            let (pickle, _) = sound();
            let before = [Entry::new("archive/data.pkl", &pickle), Entry::new("archive/byteorder", b"little")];
            Zip::new(before.to_vec()).build().windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap() as u64
        }]);
    }));
    for described in [false, true] {
        let malformed = ErrorKind::Malformed;
        let with = |change: &dyn Fn(&mut Entry)| {
            changed(2, |entry| {
                if described {
                    entry.described();
                }
                change(entry);
            })
        };
        let two = [zip64(&[16, 16]), zip64(&[16, 16])].concat();
        refused(&with(&|e| e.central.extra = two.clone()), malformed, "two zip64");
        refused(&with(&|e| e.local.extra = two.clone()), malformed, "two zip64");
        refused(&with(&|e| e.local.extra = b"FB\x09\0ZZ".to_vec()), malformed, "cut off");
        refused(&with(&|e| e.central.extra = b"FB".to_vec()), malformed, "cut off");
        for numbers in [&[][..], &[16], &[17, 16], &[16, 17], &[u64::MAX, u64::MAX], &[u64::MAX, 16, 0]] {
            refused(&with(&|e| long(e, numbers)), malformed, "");
        }
    }
}

#[test]
fn records_that_lie_wrongly_are_refused() {
    let (pickle, data) = sound();
    // The second record lies within the first one's data.
    let inner = Zip::new(vec![Entry::new("archive/data/0", &data)]).build();
    let inner = &inner[..30 + 14 + 16];
    let mut zip = Zip::new(records(&pickle, &[]));
    let mut outer = Entry::new("archive/outer", inner);
    outer.gap = Vec::new();
    zip.entries.insert(0, outer);
    let mut hidden = Entry::new("archive/data/0", &data);
    hidden.header_offset = Some(30 + 13);
    zip.entries.insert(1, hidden);
    refused(&zip.build(), ErrorKind::Malformed, "begins within");
    // Two entries for one header.
    let mut twice = Zip::new(records(&pickle, &[("0", &data)]));
    let mut again = Entry::new("archive/data/0", &data);
    again.header_offset = Some(0);
    twice.entries.push(again);
    refused(&twice.build(), ErrorKind::Malformed, "");
    // Longer than the file.
    for len in [17, 1000, 0x7FFF_FFFF, 0xFFFF_FFFE] {
        let file =
            changed(2, |entry| *entry = entry.clone().both(|header| (header.len, header.stored_len) = (len, len)));
        refused(&file, ErrorKind::Malformed, "");
    }
    let last = changed(3, |entry| *entry = entry.clone().both(|header| (header.len, header.stored_len) = (9, 9)));
    refused(&last, ErrorKind::Malformed, "in front of");
    // Records apart from each other, and in another order than in the directory, are read.
    opens(&changed(2, |entry| entry.gap = b"between".to_vec()));
}

#[test]
fn names_that_mislead_are_refused() {
    let (pickle, data) = sound();
    let with = |names: &[&str]| {
        let mut zip = Zip::new(records(&pickle, &[("0", &data)]));
        zip.entries.extend(names.iter().map(|name| Entry::new(name, b"x")));
        zip.build()
    };
    for names in
        [&["archive/data/0"][..], &["archive/DATA/0"], &["archive/Data.pkl"], &["ARCHIVE/version"], &["q", "Q"]]
    {
        refused(&with(names), ErrorKind::Malformed, "differ only in case");
    }
    let names = ["../x", "archive/../x", "..", "archive/..", "/etc/passwd", "", "a\0b", "archive/data/0\0"];
    for name in names {
        let e = refused(&with(&[name]), ErrorKind::Malformed, "");
        assert!(!e.to_string().contains('\0'));
    }
    opens(&with(&["archive/...", "archive/a..b", "archive/\u{1F5FF}", "other/data.pkl", "archive/"]));
    opens(&with(&[&"n".repeat(65_535)]));
    let other = changed(2, |entry| *entry = entry.clone().both(|header| header.name = b"archive/\xFF".to_vec()));
    refused(&other, ErrorKind::Malformed, "not UTF-8");
    let escaped = refused(&with(&["a\u{1b}[2J\0"]), ErrorKind::Malformed, "");
    assert!(!escaped.to_string().contains('\u{1b}'));
}

#[test]
fn what_is_encrypted_compressed_otherwise_or_in_parts_is_not_known() {
    let other = ErrorKind::UnsupportedVersion;
    let both = |change: &dyn Fn(&mut Header)| changed(2, |entry| *entry = entry.clone().both(change));
    refused(&both(&|header| header.flags |= 1), other, "encrypted");
    for bit in (4..16).filter(|&bit| bit != 11) {
        refused(&both(&|header| header.flags |= 1 << bit), other, "flags");
    }
    for method in [1, 9, 12, 14, 93, 95, 99, 0xFFFF] {
        refused(&both(&|header| header.method = method), other, &format!("method {method}"));
    }
    refused(&changed(2, |entry| entry.disk = 1), other, "another part");
    let (pickle, data) = sound();
    let file = archive(&pickle, &[("0", &data)]);
    for at in [4, 6, 8] {
        let mut parts = file.clone();
        let place = parts.len() - 22 + at;
        parts[place] ^= 1;
        refused(&parts, other, "several parts");
    }
}

#[test]
fn an_archive_has_one_end() {
    let (pickle, data) = sound();
    let zip = Zip::new(records(&pickle, &[("0", &data)]));
    let file = zip.build();
    opens(&Zip { comment: b"a comment".to_vec(), ..zip.clone() }.build());
    opens(&Zip { comment: vec![b'c'; 0xFFFF], ..zip.clone() }.build());
    // An end record in the comment: PyTorch looks for the last one, whatever follows it.
    let evil = Zip::new(records(&Pickle::new().text("evil").stop(), &[])).build();
    let (evil_end, evil_rest) = (&evil[evil.len() - 22..], &evil[..evil.len() - 22]);
    for tail in [&b""[..], b"x", &[b'x'; 100]] {
        let whole = [evil_rest, &file[..file.len() - 22]].concat();
        let comment = [evil_end, tail].concat();
        let both =
            [whole, end(4, file.len() - 22 - directory_at(&file), directory_at(&file) + evil_rest.len(), &comment)]
                .concat();
        assert!(refused(&both, ErrorKind::Malformed, "").offset().is_some());
    }
    // A whole archive in the comment is what everyone sees.
    let offset = file.len();
    let mut inner = Zip::new(records(&Pickle::new().text("inner").stop(), &[]));
    for entry in &mut inner.entries {
        entry.gap = Vec::new();
    }
    let inner = shifted(&inner, offset);
    let outer = Zip { comment: inner, ..zip.clone() }.build();
    assert_eq!(opens(&outer).document().unwrap(), Some(Value::from("inner")));
    // What is not the end.
    for tail in [&b"\n"[..], b"<!-- -->", &[0; 22], &[0; 70_000]] {
        refused(&[&file, tail].concat(), ErrorKind::Malformed, "");
    }
    refused(&[&file[..], &file[file.len() - 22..]].concat(), ErrorKind::Malformed, "should end at");
    refused(&Zip { behind_directory: b"x".to_vec(), ..zip.clone() }.build(), ErrorKind::Malformed, "should end at");
    for before in [&b"PK\x03\x04"[..], b"#!/bin/sh\n"] {
        assert_eq!(open(&[before, &file].concat()).unwrap_err().kind(), ErrorKind::NotThisFormat);
    }
}

fn directory_at(file: &[u8]) -> usize {
    u32::from_le_bytes(file[file.len() - 6..file.len() - 2].try_into().unwrap()) as usize
}

/// An archive that lies so far into a file.
fn shifted(zip: &Zip, by: usize) -> Vec<u8> {
    let mut at = by;
    let mut zip = zip.clone();
    for entry in &mut zip.entries {
        entry.header_offset = Some(at as u32);
        at += 30 + entry.local.name.len() + entry.stored.len();
    }
    let mut file = zip.build();
    let place = file.len() - 6..file.len() - 2;
    let moved = directory_at(&file) + by;
    file[place].copy_from_slice(&(moved as u32).to_le_bytes());
    file
}

#[test]
fn zip64_ends_that_lie_are_refused() {
    let (pickle, data) = sound();
    let zip = Zip { zip64: true, ..Zip::new(records(&pickle, &[("0", &data)])) };
    let file = zip.build();
    opens(&file);
    let (end_at, locator_at) = (file.len() - 22, file.len() - 42);
    let end64_at = locator_at - 56;
    let with = |at: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let malformed = ErrorKind::Malformed;
    for at in [locator_at + 8, end64_at + 4, end64_at + 24, end64_at + 32, end64_at + 40, end64_at + 48] {
        for number in [0u64, 1, u64::MAX, 1 << 63, file.len() as u64] {
            refused(&with(at, &number.to_le_bytes()), malformed, "");
        }
    }
    refused(&with(locator_at, b"PK\x06\x00"), malformed, "");
    refused(&with(end64_at, b"PK\x06\x00"), malformed, "zip64 end record is wrong");
    refused(&with(locator_at + 16, &2u32.to_le_bytes()), malformed, "locator");
    for at in [end_at + 12, end_at + 16] {
        refused(&with(at, &7u32.to_le_bytes()), malformed, "disagree");
        opens(&with(at, &u32::MAX.to_le_bytes()));
    }
    refused(&with(end_at + 8, &[9, 0, 9, 0]), malformed, "disagree");
    // Markers without a zip64 record.
    let plain = Zip { zip64: false, ..zip }.build();
    let mut marked = plain.clone();
    marked[plain.len() - 6..plain.len() - 2].fill(0xFF);
    refused(&marked, malformed, "zip64");
    // Counts that the directory is too short for.
    let mut many = plain.clone();
    many[plain.len() - 14..plain.len() - 10].copy_from_slice(&[0xFE, 0xFF, 0xFE, 0xFF]);
    refused(&many, malformed, "cannot have");
    let mut fewer = plain.clone();
    fewer[plain.len() - 14..plain.len() - 10].copy_from_slice(&[3, 0, 3, 0]);
    refused(&fewer, malformed, "goes on");
}

#[test]
fn what_a_checkpoint_needs_is_there_and_says_what_it_should() {
    let (pickle, data) = sound();
    let without = |name: &str| {
        let mut zip = Zip::new(records(&pickle, &[("0", &data)]));
        zip.entries.retain(|entry| entry.local.name != name.as_bytes());
        zip.build()
    };
    opens(&without("archive/version"));
    opens(&without("archive/byteorder"));
    refused(&without("archive/data/0"), ErrorKind::Malformed, "not in the file");
    assert_eq!(open(&without("archive/data.pkl")).unwrap_err().kind(), ErrorKind::NotThisFormat);
    let word = |which: usize, content: &[u8]| {
        changed(which, |entry| {
            let name = String::from_utf8(entry.local.name.clone()).unwrap();
            *entry = Entry::new(&name, content);
        })
    };
    for content in [&b"11"[..], b"11\n", b"18446744073709551615"] {
        refused(&word(3, content), ErrorKind::UnsupportedVersion, "version");
    }
    for content in [&b""[..], b"x", b"-1", b"3 3", b"99999999999999999999", b"\xFF", b"\x1b[2J"] {
        let e = refused(&word(3, content), ErrorKind::Malformed, "version");
        assert!(!e.to_string().contains('\u{1b}'));
    }
    refused(&word(3, &[b'3'; 65]), ErrorKind::Limit, "65 bytes");
    for content in [&b""[..], b"LITTLE", b"middle", b"little\0", b"\xFF"] {
        refused(&word(1, content), ErrorKind::Malformed, "byte order");
    }
    let swapped = opens(&word(1, b"big"));
    assert_eq!(swapped.tensor("w").unwrap().to_vec::<f32>().unwrap()[0], f32::from_be_bytes(1.0f32.to_le_bytes()));
    // Two versions: PyTorch asks the new place first.
    let mut zip = Zip::new(records(&pickle, &[("0", &data)]));
    zip.entries.push(Entry::new("archive/.data/version", b"11"));
    refused(&zip.build(), ErrorKind::UnsupportedVersion, "version");
    // CRCs of what is read here and now.
    for which in [0, 1, 3] {
        let file = changed(which, |entry| *entry = entry.clone().both(|header| header.crc32 ^= 0x100));
        assert!(refused(&file, ErrorKind::Corrupt, "CRC-32").offset().is_some());
    }
    let file = changed(2, |entry| *entry = entry.clone().both(|header| header.crc32 ^= 0x100));
    let opened = open(&file).unwrap();
    let report = opened.verify_with(&one_thread()).unwrap();
    assert_eq!((report.is_valid(), report.damaged[0].name.as_str()), (false, "w"));
    assert_eq!(opened.tensor("w").unwrap().bytes().unwrap_err().kind(), ErrorKind::Corrupt);
    // None was computed: nothing can be said.
    let file = changed(2, |entry| *entry = entry.clone().both(|header| header.crc32 = 0));
    assert_eq!(open(&file).unwrap().verify_with(&one_thread()).unwrap().unchecked_storages, 1);
}

#[test]
fn links_and_other_attributes_mean_nothing() {
    for external in [0o120_777 << 16, 0o040_755 << 16, 0x10, u32::MAX] {
        let file = changed(2, |entry| entry.external = external);
        assert_eq!(opens(&file).tensor("w").unwrap().bytes().unwrap().len(), 16);
    }
    opens(&changed(2, |entry| entry.comment = b"PK\x05\x06".to_vec()));
}

#[test]
fn compressed_checkpoints_are_read_and_bombs_are_not_inflated() {
    let (pickle, data) = sound();
    let compressed = |entries: Vec<Entry>| Zip::new(entries).build();
    let mut entries = records(&pickle, &[("0", &data)]);
    for entry in &mut entries {
        *entry = Entry::deflated(std::str::from_utf8(&entry.local.name).unwrap(), &entry.stored);
    }
    assert_eq!(opens(&compressed(entries.clone())).tensor("w").unwrap().to_vec::<f32>().unwrap()[3], 8.0);
    // Claims that are wrong both ways.
    for which in 0..4 {
        for len in [0, 1, 3, 17, 1000, 0xFFFF_FFF0] {
            let mut entries = entries.clone();
            entries[which] = entries[which].clone().both(|header| header.len = len);
            let opened = open(&compressed(entries));
            if let Ok(opened) = opened {
                let read = opened.tensor("w").unwrap().bytes().map(<[u8]>::len);
                assert_eq!((which, read.unwrap_err().kind()), (2, ErrorKind::Corrupt), "{len}");
            }
        }
        let mut entries = entries.clone();
        entries[which].stored.fill(0xFF);
        match open(&compressed(entries)) {
            Ok(opened) => assert_eq!(opened.tensor("w").unwrap().bytes().unwrap_err().kind(), ErrorKind::Corrupt),
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "{e}"),
        }
    }
    // A storage of a hundred MiB in a hundred KiB: nothing is inflated before it is touched, and streaming keeps nothing.
    const LEN: usize = 100 << 20;
    let zeros = vec![0; LEN];
    let bomb = Pickle::new().op(DICT).text("w").tensor("0", LEN as i64 / 4, 0, &[4], &[1]).op(b"s").stop();
    let mut entries = records(&bomb, &[]);
    entries.push(Entry::deflated("archive/data/0", &zeros));
    drop(zeros);
    let file = compressed(entries);
    let ((), taken) = taken(|| {
        let opened = open(&file).unwrap();
        assert!(opened.verify_with(&one_thread()).unwrap().is_valid());
    });
    assert_bounded(file.len(), PER_BYTE, taken);
}

#[test]
fn compressed_pickles_make_no_more_of_themselves_than_others() {
    for part in [&b")R"[..], b"]", b"N", b")", b"2", b"\x94", b"(", b"}", b"K\x01\x85"] {
        for len in [10_000, 1_000_000, 16_000_000] {
            let pickle = Pickle::of_protocol(4).global("m", "f").ops(part, len / part.len()).op(NONE).stop();
            let mut entries = records(&[], &[]);
            entries[0] = Entry::deflated("archive/data.pkl", &pickle);
            if let Err(e) = open_within(PER_COMPRESSED_BYTE, &Zip::new(entries).build()) {
                assert_eq!(e.kind(), ErrorKind::Limit, "{part:02x?} {len}: {e}");
            }
        }
    }
    // One that is compressed as pickles are is read.
    let mut pickle = Pickle::new().op(DICT).op(MARK);
    for n in 0..2000 {
        pickle = pickle.text(&format!("model.layers.{n}.self_attn.q_proj.weight")).tensor(
            &n.to_string(),
            4,
            0,
            &[2, 2],
            &[2, 1],
        );
    }
    let mut entries = records(&[], &[]);
    entries[0] = Entry::deflated("archive/data.pkl", &pickle.op(SETITEMS).stop());
    entries.extend((0..2000).map(|n| Entry::deflated(&format!("archive/data/{n}"), &floats(4))));
    assert_eq!(open_within(PER_COMPRESSED_BYTE, &Zip::new(entries).build()).unwrap().len(), 2000);
}

// Many records.

#[test]
fn a_hundred_thousand_records_are_read_in_linear_time() {
    let many = |n: usize| {
        let mut pickle = Pickle::new().op(LIST).op(MARK);
        let mut entries = records(&[], &[]);
        for i in 0..n {
            pickle = pickle.storage("ByteStorage", &i.to_string(), 1);
            entries.push(Entry::new(&format!("archive/data/{i}"), &[i as u8]));
        }
        entries[0] = Entry::new("archive/data.pkl", &pickle.op(APPENDS).stop());
        Zip::new(entries).build()
    };
    let file = many(100_000);
    let (opened, whole) = taken(|| open(&file).unwrap());
    assert_eq!(opened.len(), 100_000);
    let (_, half) = taken(|| open(&many(50_000)).unwrap());
    assert!(whole.calls < 5_000_000 && whole.calls < half.calls * 5 / 2, "{half:?} {whole:?}");
    assert!(opened.verify_with(&one_thread()).unwrap().is_valid());
}

#[test]
fn a_hundred_thousand_damaged_records_are_told_in_linear_time() {
    // Compressed, so that each is named by itself when it cannot be made.
    let mut pickle = Pickle::new().op(LIST).op(MARK);
    let mut entries = records(&[], &[]);
    for i in 0..100_000 {
        pickle = pickle.storage("ByteStorage", &i.to_string(), 1);
        let entry = Entry::with(&format!("archive/data/{i}"), &[1], b"\x01\x01\0\xFE\xFF\x02".to_vec(), DEFLATED);
        entries.push(entry);
    }
    entries[0] = Entry::new("archive/data.pkl", &pickle.op(APPENDS).stop());
    let file = Zip::new(entries).build();
    let opened = open(&file).unwrap();
    let report = opened.verify_with(&one_thread()).unwrap();
    assert_eq!((report.problem_count, report.damaged.len()), (100_000, 100_000));
    assert!(report.problems.iter().all(|e| e.tensor().is_some()));
}

#[test]
fn records_that_all_claim_one_long_header_are_refused_before_it_is_read_for_each() {
    // The directory's entries are short, and the header that each refers to is as long as one can be.
    let (pickle, data) = sound();
    let mut zip = Zip::new(records(&pickle, &[("0", &data)]));
    let mut long = Entry::new("x", b"");
    long.local.extra = padding(0).repeat(16_383);
    zip.entries.insert(0, long.clone());
    let mut one = Zip::new(vec![long]).build();
    one.truncate(directory_at(&one));
    let mut directory = Vec::new();
    for _ in 0..200_000 {
        let mut entry = Entry::new("x", b"");
        entry.header_offset = Some(0);
        directory.extend(Zip::new(vec![entry]).build().split_off(31).into_iter().take(47));
    }
    let mut file = one.clone();
    file.extend(&directory);
    let end64_at = file.len() as u64;
    file.extend(b"PK\x06\x06");
    file.extend(44u64.to_le_bytes());
    file.extend([45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let numbers = [200_000, 200_000, directory.len(), one.len()];
    numbers.into_iter().for_each(|number| file.extend((number as u64).to_le_bytes()));
    file.extend(b"PK\x06\x07\0\0\0\0");
    file.extend(end64_at.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(end(200_000, directory.len(), one.len(), b""));
    // It is no checkpoint by its names, so a file that begins as one is put around it.
    let named: Vec<u8> = file;
    let _ = open(&named);
    assert_eq!(&named[..4], b"PK\x03\x04");
}

#[test]
fn tiny_compressed_records_cost_what_they_hold() {
    let n = 20_000;
    let mut pickle = Pickle::new().op(LIST).op(MARK);
    let mut entries = records(&[], &[]);
    for i in 0..n {
        pickle = pickle.storage("ByteStorage", &i.to_string(), 1);
        entries.push(Entry::deflated(&format!("archive/data/{i}"), &[7]));
    }
    entries[0] = Entry::new("archive/data.pkl", &pickle.op(APPENDS).stop());
    let file = Zip::new(entries).build();
    let opened = open(&file).unwrap();
    let (report, taken) = taken(|| opened.verify_with(&one_thread()).unwrap());
    assert!(report.is_valid());
    // The directory is read once more, and that is all: a few times what it is in the file.
    assert!(taken.peak < 4 * file.len(), "{taken:?} for {}", file.len());
}

// TorchScript.

#[test]
fn constants_of_scripts_are_as_bounded_as_the_rest() {
    let (pickle, data) = sound();
    let script = |constants: &[u8]| {
        let mut entries = records(&pickle, &[("0", &data)]);
        entries.push(Entry::new("archive/constants.pkl", constants));
        entries.push(Entry::new("archive/constants/0", &data));
        Zip::new(entries).build()
    };
    let good = Pickle::new().op(MARK).tensor("0", 4, 0, &[4], &[1]).tensor("0", 4, 0, &[2], &[1]).op(TUPLE).stop();
    assert_eq!(opens(&script(&good)).len(), 3);
    refused(&script(b""), ErrorKind::Malformed, "ends in the middle");
    refused(&script(&Pickle::new().tensor("1", 4, 0, &[4], &[1]).stop()), ErrorKind::Malformed, "not in the file");
    refused(&script(&Pickle::new().tensor("0", 4, 1, &[4], &[1]).stop()), ErrorKind::Malformed, "ends at byte");
    refused(&script(&nested(0, 5000)), ErrorKind::Limit, "nest");
    // Names of constants that are taken already.
    let taken = Pickle::new().op(DICT).op(MARK).text("constants").op(LIST).op(MARK);
    let taken = taken.tensor("0", 4, 0, &[4], &[1]).op(APPENDS);
    let taken = taken.text("constants.0").tensor("0", 4, 0, &[4], &[1]).op(SETITEMS).stop();
    let mut entries = records(&taken, &[("0", &data)]);
    entries.push(Entry::new("archive/constants.pkl", &good));
    entries.push(Entry::new("archive/constants/0", &data));
    assert_eq!(opens(&Zip::new(entries).build()).len(), 4);
}

// Before version 1.6.

#[test]
fn legacy_files_that_lie_are_refused() {
    let (pickle, data) = sound();
    let malformed = ErrorKind::Malformed;
    let one = |storage: &[u8]| legacy(&pickle, &["0"], storage);
    opens(&one(&legacy_storage(4, &data)));
    for count in [-1, i64::MIN, 0, 3, 5, i64::MAX] {
        refused(&one(&legacy_storage(count, &data)), malformed, "elements");
    }
    refused(&one(&legacy_storage(4, &data[..15])), malformed, "ends within storage");
    refused(&one(&[0; 7]), malformed, "ends within storage");
    refused(
        &one(&[&legacy_storage(4, &data)[..], b"x"].concat()),
        ErrorKind::UnsupportedVersion,
        "goes on for 1 bytes",
    );
    let storage = legacy_storage(4, &data);
    refused(&legacy(&pickle, &["0", "0"], &storage.repeat(2)), malformed, "twice");
    refused(&legacy(&pickle, &["0", "1"], &storage.repeat(2)), malformed, "nothing refers");
    refused(&legacy(&pickle, &["1"], &storage), malformed, "nothing refers");
    refused(&legacy(&pickle, &[], b""), malformed, "not in the file");
    let huge = Pickle::new().tensor("0", i64::MAX, 0, &[1], &[1]).stop();
    refused(&legacy(&huge, &["0"], &legacy_storage(i64::MAX, &data)), malformed, "overflows");
    let huge = Pickle::new().tensor("0", 1 << 60, 0, &[1], &[1]).stop();
    refused(&legacy(&huge, &["0"], &legacy_storage(1 << 60, &data)), malformed, "ends within storage");
    // Keys that are no list of texts.
    let head = legacy(&pickle, &[], b"");
    let head = &head[..head.len() - Pickle::new().op(LIST).op(MARK).op(APPENDS).stop().len()];
    for keys in [&b"\x80\x02N."[..], b"\x80\x02).", b"\x80\x02]Na.", b"\x80\x02](K\x01e.", b"\x80\x02](]e.", b"."] {
        refused(&[head, keys, &storage].concat(), malformed, "");
    }
}

#[test]
fn wrong_beginnings_of_legacy_files_are_told() {
    let (pickle, data) = sound();
    let file = legacy(&pickle, &["0"], &legacy_storage(4, &data));
    let version = file.windows(2).position(|bytes| bytes == b"\xe9\x03").unwrap();
    let mut other = file.clone();
    other[version] = 0xEA;
    refused(&other, ErrorKind::UnsupportedVersion, "1002");
    for at in 0..15 {
        let mut other = file.clone();
        other[at] ^= 0x80;
        assert_eq!(open(&other).unwrap_err().kind(), ErrorKind::NotThisFormat);
    }
    refused(&file[..15], ErrorKind::Malformed, "ends in the middle");
}

/// A storage of which the id speaks of a part.
fn viewed(class: &str, count: i64, first: i64, len: i64) -> Pickle {
    let module = if class == "UntypedStorage" { "torch.storage" } else { "torch" };
    let id = Pickle::part().op(MARK).text("storage").global(module, class).text("0").text("cpu").int(count);
    id.op(MARK).text("0").int(first).int(len).op(TUPLE).op(TUPLE).op(PERSISTENT)
}

#[test]
fn views_of_storages_keep_within_them() {
    let data = floats(16);
    let tensor = |view: Pickle, offset: i64, shape: &[i64]| {
        let call = Pickle::new().global("torch._utils", "_rebuild_tensor_v2").op(MARK).op(&view.0).int(offset);
        let call = call.ints(shape).ints(&[1]).bool(false).hooks().op(TUPLE).op(REDUCE).stop();
        legacy(&call, &["0"], &legacy_storage(16, &data))
    };
    let view = |first, len| viewed("FloatStorage", 16, first, len);
    let opened = opens(&tensor(view(4, 8), 2, &[6]));
    assert_eq!(opened.nth(0).unwrap().to_vec::<f32>().unwrap()[0], 6.0);
    for (first, len, offset, shape) in [
        (4, 8, 0, 9),
        (4, 8, 3, 6),
        (4, 13, 0, 1),
        (17, 0, 0, 0),
        (0, i64::MAX, 0, 1),
        (i64::MAX, 1, 0, 1),
        (i64::MAX, i64::MAX, 0, 0),
        (8, 8, i64::MAX, 1),
    ] {
        refused(&tensor(view(first, len), offset, &[shape]), ErrorKind::Malformed, "");
    }
    // Bytes that are no whole elements, and elements of another size than the storage's.
    let v3 = |view: Pickle, dtype: &str| {
        let call = Pickle::new().global("torch._utils", "_rebuild_tensor_v3").op(MARK).op(&view.0).int(0);
        let call = call.ints(&[1]).ints(&[1]).bool(false).hooks().global("torch", dtype).op(TUPLE).op(REDUCE).stop();
        let count = if view.0.windows(7).any(|bytes| bytes == b"Untyped") { 64 } else { 16 };
        legacy(&call, &["0"], &legacy_storage(count, &data))
    };
    opens(&v3(viewed("UntypedStorage", 64, 4, 8), "uint32"));
    refused(&v3(viewed("UntypedStorage", 64, 1, 8), "uint32"), ErrorKind::Malformed, "");
    refused(&v3(viewed("FloatStorage", 16, 1, 8), "float64"), ErrorKind::Malformed, "");
    // A view as such.
    opens(&legacy(&Pickle::new().op(&view(4, 8).0).stop(), &["0"], &legacy_storage(16, &data)));
    refused(
        &legacy(&Pickle::new().op(&view(4, 13).0).stop(), &["0"], &legacy_storage(16, &data)),
        ErrorKind::Malformed,
        "ends at",
    );
}

// What is none.

#[test]
fn what_is_no_checkpoint_is_called_what_it_is() {
    for (bytes, words) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"[..], "git-LFS pointer"),
        (b"<!DOCTYPE html><html><head>", "HTML page"),
        (b"", "empty"),
        (b"\x80\x02}q\x00.", "Python pickle"),
        (b"{\"error\":\"not found\"}", "JSON"),
    ] {
        assert!(open(bytes).unwrap_err().to_string().contains(words), "{words}");
    }
    let (pickle, data) = sound();
    let file = torch_archive(&pickle, &[("0", &data)]);
    refused(&file[..file.len() / 2], ErrorKind::Malformed, "the file was cut off");
    refused(&file[..file.len() - 1], ErrorKind::Malformed, "");
    refused(&file[..100], ErrorKind::Malformed, "the file was cut off");
}

#[test]
fn every_truncation_is_found() {
    let (pickle, data) = sound();
    for file in [
        archive(&pickle, &[("0", &data)]),
        torch_archive(&pickle, &[("0", &data)]),
        legacy(&pickle, &["0"], &legacy_storage(4, &data)),
    ] {
        for len in 0..file.len() {
            let e = open(&file[..len]).map(drop).unwrap_err();
            assert!(matches!(e.kind(), ErrorKind::Malformed | ErrorKind::NotThisFormat), "cut off at {len}: {e}");
        }
        for more in 1..64 {
            assert!(open(&[&file[..], &vec![0; more]].concat()).is_err(), "longer by {more}");
        }
    }
}

/// What a file gives: an error, or all of its content and whether that is known to be right.
fn outcome(bytes: &[u8]) -> dolmen::Result<(Content, bool)> {
    let opened = open(bytes)?;
    let valid = opened.verify_with(&one_thread()).unwrap().is_valid();
    let content = content(&opened)?;
    let copied = converted(&opened).map(|copy| self::content(&copy).unwrap());
    assert_eq!(copied.unwrap(), content);
    Ok((content, valid))
}

/// Flips every bit; gives the bytes of which some bit's change made no difference.
fn silent(file: &[u8]) -> Vec<usize> {
    let (original, valid) = outcome(file).unwrap();
    assert!(valid);
    let mut silent = Vec::new();
    for bit in 0..file.len() * 8 {
        let mut damaged = file.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok((content, valid)) = outcome(&damaged) {
            assert!(valid, "bit {} of byte {}: not valid, and given", bit % 8, bit / 8);
            assert!(content == original, "bit {} of byte {} changes what the file holds", bit % 8, bit / 8);
            silent.push(bit / 8);
        }
    }
    silent.dedup();
    silent
}

/// The bytes of an archive that nobody reads: versions that made it or need it, times, attributes, padding, and the content of records
/// that a checkpoint can do without.
fn unread(file: &[u8]) -> Vec<usize> {
    let mut unread = Vec::new();
    let (mut at, u16_at) = (0, |at: usize| u16::from_le_bytes(file[at..at + 2].try_into().unwrap()) as usize);
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let end_at = file.len() - 22;
    let directory = u32_at(end_at + 16);
    while at < directory {
        let (name, extra) = (u16_at(at + 26), u16_at(at + 28));
        // Version needed; time and date.
        unread.extend((at + 4..at + 6).chain(at + 10..at + 14));
        // Numbers that follow the data: here they may be 0, or right, and one bit may be all that makes the difference.
        if u16_at(at + 6) & usize::from(DESCRIPTOR) != 0 {
            unread.extend(at + 14..at + 26);
        }
        // The content of extra fields that are not known, and the kind of such a field, as long as it is not known either.
        unread.extend(at + 30 + name..at + 30 + name + extra);
        at += 30 + name + extra;
        at += file[at..].windows(4).position(|bytes| matches!(bytes, b"PK\x03\x04" | b"PK\x01\x02")).unwrap();
    }
    while at < end_at && file[at..at + 4] == *b"PK\x01\x02" {
        let (name, extra) = (u16_at(at + 28), u16_at(at + 30));
        // Version that made it and that it needs; time and date; attributes within and without.
        unread.extend((at + 4..at + 8).chain(at + 12..at + 16).chain(at + 36..at + 42));
        at += 46 + name + extra;
    }
    if at < end_at {
        // Zip64: the versions that made and need it; how many parts there are, one or none.
        unread.extend((at + 12..at + 16).chain([at + 56 + 16]));
    }
    unread
}

#[test]
fn every_flipped_bit_is_found_or_lies_where_nothing_is_read() {
    let (pickle, data) = sound();
    for file in [archive(&pickle, &[("0", &data)]), torch_archive(&pickle, &[("0", &data)])] {
        let unread = unread(&file);
        let silent = silent(&file);
        for at in &silent {
            assert!(unread.contains(at), "a flipped bit in byte {at} is not found");
        }
        assert!(silent.len() > 50, "{} bytes are not read", silent.len());
    }
}

#[test]
fn every_flipped_bit_of_records_that_nobody_needs_makes_no_difference() {
    let (pickle, data) = sound();
    let mut zip = Zip::new(records(&pickle, &[("0", &data)]));
    zip.entries.push(Entry::new("archive/.data/serialization_id", b"0123456789"));
    zip.entries.push(Entry::new("archive/code/x.py", b"import os"));
    let file = zip.build();
    for content in [&b"0123456789"[..], b"import os"] {
        let at = file.windows(content.len()).position(|bytes| bytes == content).unwrap();
        for bit in 0..content.len() * 8 {
            let mut damaged = file.clone();
            damaged[at + bit / 8] ^= 1 << (bit % 8);
            // Verification tells of it.
            assert_eq!(outcome(&damaged).unwrap(), (content_of(&file), false));
        }
    }
}

fn content_of(file: &[u8]) -> Content {
    outcome(file).unwrap().0
}

#[test]
fn flipped_bits_of_what_has_no_checksum_cause_no_panic() {
    let (pickle, data) = sound();
    let file = legacy(&pickle, &["0"], &legacy_storage(4, &data));
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let _ = outcome(&damaged);
    }
    // The pickle of an archive whose CRC is right again.
    for bit in 0..pickle.len() * 8 {
        let mut damaged = pickle.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let _ = outcome(&archive(&damaged, &[("0", &data)]));
    }
    // Two bytes, all of them interesting.
    for at in 0..pickle.len() {
        for byte in
            [0, 1, 0x7F, 0x80, 0xFF, b'(', b't', b'R', b'b', b'.', b'Q', b'0', b'2', b'e', b'u', b's', b'h', b']', b'}']
        {
            let mut damaged = pickle.clone();
            damaged[at] = byte;
            let _ = outcome(&archive(&damaged, &[("0", &data)]));
            damaged.insert(at, byte);
            let _ = outcome(&archive(&damaged, &[("0", &data)]));
        }
    }
}

#[test]
fn a_thousand_tensors_over_one_storage_that_is_made_make_it_twice() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use dolmen::read::Checked;
    use dolmen::{GuestIndex, OpenOptions};

    let made = Arc::new(AtomicUsize::new(0));
    let mut guest = GuestIndex::new("made", "");
    let count = Arc::clone(&made);
    let storage = guest.made_storage(4000, Checked::Never, move |_, out| {
        count.fetch_add(1, Ordering::Relaxed);
        out.write_all(&floats(1000)).map_err(|e| Error::io("cannot write", e))
    });
    let storage = storage.unwrap();
    for n in 0..1000 {
        guest.tensor(&format!("t{n}"), DType::F32, vec![1], None, storage, 4 * n).unwrap();
    }
    let opened = OpenOptions::new().guest_from_bytes(b"", guest).unwrap();
    for tensor in opened.tensors() {
        let tensor = tensor.unwrap();
        let mut bytes = Vec::new();
        let take = |run: &[u8]| {
            bytes.extend_from_slice(run);
            Ok(())
        };
        tensor.stream(take).unwrap();
        assert_eq!(bytes, (tensor.start() as f32 / 4.0).to_le_bytes());
    }
    assert_eq!(made.load(Ordering::Relaxed), 2);
}
