//! The conformance vectors of the specification: each file to accept is accepted, with what the manifest says is in it, by each
//! way of opening; each file to reject is rejected for a reason that the manifest lists; and each rule and feature of the specification
//! has a file.

mod common;

use std::collections::BTreeSet;

use common::json::{self, Json};
use common::{IntoReader, logical_bytes, sha256, spec, touch_everything, with_large_stack};
use dolmen::format::rules::RULES;
use dolmen::{Checkpoint, Result, VerifyOptions, verify_source};

fn manifest() -> Vec<Json> {
    let text = std::fs::read_to_string(spec().join("vectors/manifest.json")).unwrap();
    match json::parse(&text) {
        Json::Array(entries) => entries.into_iter().map(with_its_values).collect(),
        _ => panic!("the manifest is no array"),
    }
}

/// The entry, with the values that are in a file of their own because they nest deep.
fn with_its_values(entry: Json) -> Json {
    let (Some(file), Json::Object(mut fields)) = (entry.get("values_in").cloned(), entry.clone()) else { return entry };
    let values = json::parse(&std::fs::read_to_string(spec().join("vectors").join(file.text())).unwrap());
    let Json::Object(values) = values else { panic!("{file:?} is no object") };
    fields.extend(values);
    Json::Object(fields)
}

fn entries(expect: &str) -> Vec<Json> {
    manifest().into_iter().filter(|entry| entry.field("expect").text() == expect).collect()
}

fn bytes_of(entry: &Json) -> Vec<u8> {
    std::fs::read(spec().join("vectors").join(entry.field("file").text())).unwrap()
}

fn texts(items: &Json) -> Vec<&str> {
    items.array().iter().map(Json::text).collect()
}

/// The file, opened in each way there is.
fn opened(entry: &Json) -> Vec<(&'static str, Result<Checkpoint>)> {
    let bytes = bytes_of(entry);
    #[allow(unused_mut, reason = "without files there are no more ways")]
    let mut ways = vec![
        ("from_bytes", Checkpoint::from_bytes(&bytes)),
        ("from_static", Checkpoint::from_static(Box::leak(bytes.into_boxed_slice()))),
    ];
    #[cfg(feature = "fs")]
    {
        let path = spec().join("vectors").join(entry.field("file").text());
        ways.push(("open", Checkpoint::open(&path)));
        ways.push(("open_on_demand", Checkpoint::open_on_demand(&path)));
        // SAFETY: nobody writes to the vectors while the tests run.
        #[cfg(feature = "mmap")]
        ways.push(("map", unsafe { Checkpoint::map(&path) }));
    }
    ways
}

fn check_tensors(checkpoint: &Checkpoint, expected: &[Json], context: &str) {
    assert_eq!(checkpoint.len(), expected.len(), "{context}: number of tensors");
    for (tensor, expected) in checkpoint.tensors().zip(expected) {
        let tensor = tensor.unwrap();
        match expected.get("name") {
            Some(name) => assert_eq!(tensor.name(), name.text(), "{context}"),
            None => {
                assert_eq!(sha256::hex(tensor.name().as_bytes()), expected.field("name_sha256").text(), "{context}");
            }
        }
        let context = format!("{context}, {:.40}", tensor.name());
        let numbers = |key: &str| expected.field(key).array().iter().map(Json::number).collect::<Vec<_>>();
        assert_eq!(tensor.dtype().to_string(), expected.field("dtype").text(), "{context}");
        assert_eq!(u64::from(tensor.dtype().bits()), expected.field("bits").number(), "{context}");
        assert_eq!(tensor.shape(), numbers("shape"), "{context}");
        assert_eq!(tensor.strides()[..], numbers("strides"), "{context}");
        let elements = match tensor.element_count() {
            0..=1_000_000 => sha256::hex(&logical_bytes(&tensor, usize::MAX).unwrap().unwrap()),
            _ => {
                // Too many to gather; that they are verified and given piece by piece is all there is to say.
                logical_bytes(&tensor, 10_000).unwrap();
                String::new()
            }
        };
        assert_eq!(elements, expected.field("sha256").text(), "{context}: elements");
        assert_eq!(u64::from(tensor.storage()), expected.field("storage").number(), "{context}");
        assert_eq!(tensor.start(), expected.field("start").number(), "{context}");
        assert_eq!(tensor.byte_len(), expected.field("byte_len").number(), "{context}");
    }
}

#[test]
fn files_to_accept_are_accepted_with_all_that_the_manifest_lists() {
    let entries = with_large_stack(|| entries("accept"));
    assert!(entries.len() >= 40, "only {} files to accept", entries.len());
    for entry in &entries {
        let file = entry.field("file").text();
        let report = verify_source(&bytes_of(entry).into_reader(), &VerifyOptions::default()).unwrap();
        assert!(report.is_valid(), "{file}: {:?}", report.problems);
        for (way, checkpoint) in opened(entry) {
            let checkpoint = checkpoint.unwrap_or_else(|e| panic!("{file} by {way}: {e}"));
            let context = format!("{file} by {way}");
            assert_eq!(format!("1.{}", checkpoint.header().minor()), entry.field("format_version").text(), "{context}");
            check_tensors(&checkpoint, entry.field("tensors").array(), &context);
            for tensor in checkpoint.tensors() {
                let tensor = tensor.unwrap();
                let found = checkpoint.tensor(tensor.name()).unwrap();
                let place = (tensor.storage(), tensor.start());
                assert_eq!((found.storage(), found.start()), place, "{context}: {:.40} by name", tensor.name());
            }
            for (tensor, expected) in checkpoint.tensors().zip(entry.field("tensors").array()) {
                let crc = tensor.unwrap().storage_crc32().unwrap().unwrap();
                assert_eq!(format!("{crc:08x}"), expected.field("crc32").text(), "{context}: CRC");
            }
            let report = checkpoint.verify().unwrap();
            assert!(report.is_valid(), "{context}: {:?}", report.problems);
            checkpoint.check_index().unwrap();
            // On the small stack that a test's thread has: only what compares the values needs a larger one.
            let (metadata, document) = (checkpoint.metadata().unwrap(), checkpoint.document().unwrap());
            let has_document = document.is_some();
            with_large_stack(|| {
                let metadata = if metadata.is_empty() { Json::Null } else { json::map(&metadata) };
                assert_eq!(&metadata, entry.field("metadata"), "{context}: metadata");
                let document = document.as_ref().map_or(Json::Null, json::render);
                assert_eq!(&document, entry.field("document"), "{context}: document");
                assert_eq!(&Json::Bool(has_document), entry.field("has_document"), "{context}: document");
            });
        }
    }
    with_large_stack(|| drop(entries));
}

#[test]
fn files_to_accept_can_be_copied_with_nothing_lost() {
    for entry in &with_large_stack(|| entries("accept")) {
        let file = entry.field("file").text();
        let original = Checkpoint::from_bytes(&bytes_of(entry)).unwrap();
        let mut b = dolmen::Builder::new();
        b.checkpoint(&original).unwrap_or_else(|e| panic!("{file}: {e}"));
        let copy = Checkpoint::from_bytes(&b.to_vec().unwrap_or_else(|e| panic!("{file}: {e}"))).unwrap();
        let report = copy.verify().unwrap();
        assert!(report.is_valid(), "{file}: {:?}", report.problems);
        check_tensors(&copy, entry.field("tensors").array(), file);
        with_large_stack(|| {
            assert_eq!(copy.metadata().unwrap(), original.metadata().unwrap(), "{file}");
            assert_eq!(copy.document().unwrap(), original.document().unwrap(), "{file}");
        });
        assert!(copy.unknown_sections().eq(original.unknown_sections()), "{file}: sections");
    }
}

#[test]
fn files_to_reject_are_rejected_for_a_reason_that_the_manifest_lists() {
    let entries = with_large_stack(|| [entries("reject"), entries("either")].concat());
    assert!(entries.len() >= 430, "only {} files to reject", entries.len());
    let mut wrong = Vec::new();
    for entry in &entries {
        let file = entry.field("file").text();
        let rules = texts(entry.field("rules"));
        let classes = entry.get("classes").map_or_else(|| vec![entry.field("class").text()], texts);
        let mut judge = |way: &str, problem: Option<&dolmen::Error>| match problem {
            None => wrong.push(format!("{file}: accepted by {way}")),
            Some(e) if !rules.contains(&e.rule().unwrap_or("none")) => {
                wrong.push(format!("{file}: {way} reports {:?} and not one of {rules:?}: {e}", e.rule()));
            }
            Some(e) if !classes.contains(&e.kind().name()) => {
                wrong.push(format!("{file}: {way} reports {} and not one of {classes:?}: {e}", e.kind().name()));
            }
            Some(_) => {}
        };
        let report = verify_source(&bytes_of(entry).into_reader(), &VerifyOptions::default()).unwrap();
        judge("verify_source", report.problems.first());
        assert_eq!(report.problem_count as usize, report.problems.len());
        let breaks = texts(entry.get("breaks").unwrap_or(entry.field("rules")));
        for problem in &report.problems {
            assert!(breaks.contains(&problem.rule().unwrap_or("none")), "{file} does not break {:?}", problem.rule());
        }
        for (way, checkpoint) in opened(entry) {
            match &checkpoint {
                // What breaks no rule that opening checks is found by verification.
                Ok(checkpoint) => {
                    touch_everything(checkpoint);
                    judge(way, checkpoint.verify().unwrap().problems.first());
                }
                Err(e) => judge(way, Some(e)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_a_reader_may_accept_it_gives_as_the_index_has_it() {
    let all = with_large_stack(|| [entries("reject"), entries("either")].concat());
    let lenient = |entry: &&Json| entry.get("reader").is_some_and(|reader| reader.text() == "either");
    let mut accepted = 0;
    for entry in all.iter().filter(lenient) {
        let file = entry.field("file").text();
        let content = entry.field("if_accepted");
        let Ok(checkpoint) = Checkpoint::from_bytes(&bytes_of(entry)) else { continue };
        // Of two tensors of the same name, only one is found by it; in turn, there are both.
        if checkpoint.tensors().all(|tensor| tensor.is_ok_and(|tensor| tensor.bytes().is_ok())) {
            accepted += 1;
            check_tensors(&checkpoint, content.field("tensors").array(), file);
        }
        assert_eq!(checkpoint.metadata().is_ok(), content.get("metadata").is_some(), "{file}: metadata");
        assert_eq!(checkpoint.document().is_ok(), content.get("document").is_some(), "{file}: document");
    }
    assert!(accepted >= 100, "only {accepted} files are read without a strict look at them");
    let strict = all.iter().filter(|entry| !lenient(entry));
    for entry in strict.filter(|entry| entry.get("reader").is_none_or(|reader| reader.text() == "reject")) {
        assert!(entry.get("if_accepted").is_none(), "{}: nobody accepts it", entry.field("file").text());
    }
}

/// The first cells of the rows of a table that is marked in a Markdown text.
fn column<'t>(text: &'t str, table: &str, column: usize) -> Vec<&'t str> {
    let (_, rest) = text.split_once(&format!("<!-- table: {table} -->")).unwrap_or_else(|| panic!("no table {table}"));
    let rows = rest.lines().skip(1).take_while(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.split('|').nth(column + 1).unwrap().trim()).collect()
}

#[test]
fn every_rule_is_broken_alone_by_a_file_to_reject_and_no_other_rule_is_named() {
    let text = std::fs::read_to_string(spec().join("format.md")).unwrap();
    let cells = |line: &'_ str| line.split('|').nth(1).map(|cell| cell.trim().to_owned());
    let rules_of_the_text: BTreeSet<String> = text
        .split("<!-- rules -->")
        .skip(1)
        .flat_map(|rest| rest.lines().skip(3).take_while(|line| line.starts_with('|')).filter_map(cells))
        .collect();
    let known: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(rules_of_the_text.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);

    let entries = with_large_stack(|| [entries("reject"), entries("either")].concat());
    let named: BTreeSet<&str> =
        entries.iter().flat_map(|entry| texts(entry.get("breaks").unwrap_or(entry.field("rules")))).collect();
    assert_eq!(named.difference(&known).collect::<Vec<_>>(), [&""; 0], "rules that do not exist");
    let rejected = entries.iter().filter(|entry| entry.field("expect").text() == "reject");
    let alone: BTreeSet<&str> = rejected
        .filter(|entry| entry.get("breaks").is_none() && entry.field("rules").array().len() == 1)
        .map(|entry| entry.field("rules").array()[0].text())
        .collect();
    assert_eq!(known.difference(&alone).collect::<Vec<_>>(), [&""; 0], "rules that no file breaks alone");
    for entry in &entries {
        let file = entry.field("file").text();
        let class = |id: &str| RULES.iter().find(|rule| rule.id == id).unwrap().class.name();
        let classes: Vec<&str> = texts(entry.field("rules")).into_iter().map(class).collect();
        assert_eq!(entry.field("class").text(), classes[0], "{file}: class of the first rule");
        let all: BTreeSet<&str> = classes.into_iter().collect();
        match entry.get("classes") {
            None => assert_eq!(all.len(), 1, "{file}: rules of several classes"),
            Some(listed) => assert_eq!(texts(listed).into_iter().collect::<BTreeSet<_>>(), all, "{file}"),
        }
    }
}

/// Whether a rendered value holds something with this key.
fn holds(value: &Json, key: &str) -> bool {
    match value {
        Json::Array(items) => items.iter().any(|item| holds(item, key)),
        Json::Object(fields) => fields.contains_key(key) || fields.values().any(|field| holds(field, key)),
        _ => false,
    }
}

#[test]
fn every_feature_of_the_specification_is_shown_by_a_file_to_accept() {
    let format = std::fs::read_to_string(spec().join("format.md")).unwrap();
    let readme = std::fs::read_to_string(spec().join("vectors/README.md")).unwrap();
    let mut wanted: BTreeSet<String> = column(&readme, "features", 0).into_iter().map(str::to_owned).collect();
    for (group, table) in [("dtype", "dtypes"), ("tag", "tags"), ("flag", "descriptor_flags"), ("section", "sections")]
    {
        let names = column(&format, table, 1);
        // A committed file has no unfinished record.
        wanted.extend(names.into_iter().filter(|name| *name != "UNFINISHED").map(|name| format!("{group}:{name}")));
    }
    assert!(wanted.len() >= 130, "only {} features", wanted.len());
    let entries = with_large_stack(|| entries("accept"));
    let shown: BTreeSet<String> =
        entries.iter().flat_map(|entry| texts(entry.field("features"))).map(str::to_owned).collect();
    assert_eq!(wanted.difference(&shown).collect::<Vec<_>>(), [&""; 0], "features that no file shows");
    assert_eq!(shown.difference(&wanted).collect::<Vec<_>>(), [&""; 0], "features that are not listed");
    for entry in &entries {
        let dtypes: BTreeSet<&str> =
            entry.field("tensors").array().iter().map(|tensor| tensor.field("dtype").text()).collect();
        for feature in texts(entry.field("features")) {
            let context = format!("{}: {feature}", entry.field("file").text());
            match feature.split_once(':').unwrap() {
                ("dtype", name) if !name.contains('-') => assert!(dtypes.contains(name), "{context}"),
                ("tag", name) => {
                    let key = if name.ends_with("bignum") { "$int".to_owned() } else { format!("${name}") };
                    let shown = |field| with_large_stack(|| holds(entry.field(field), &key));
                    assert!(shown("metadata") || shown("document"), "{context}");
                }
                _ => {}
            }
        }
    }
    with_large_stack(|| drop(entries));
}

#[test]
fn the_manifest_lists_every_file_of_its_directories_once() {
    let listed: Vec<String> =
        with_large_stack(|| manifest().iter().map(|entry| entry.field("file").text().to_owned()).collect());
    let mut there = Vec::new();
    for directory in ["accept", "reject", "either"] {
        for file in std::fs::read_dir(spec().join("vectors").join(directory)).unwrap() {
            there.push(format!("{directory}/{}", file.unwrap().file_name().into_string().unwrap()));
        }
    }
    let mut sorted = listed.clone();
    sorted.sort();
    there.sort();
    assert_eq!(sorted, there);
}

#[test]
fn the_digest_is_sha_256() {
    assert_eq!(sha256::hex(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_eq!(sha256::hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    let long = sha256::hex(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
    assert_eq!(long, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

/// What is read piece by piece, and kept nowhere, is what is read whole: of every tensor alone, from a checkpoint that has touched nothing.
#[test]
fn files_to_accept_give_the_same_bytes_when_they_are_streamed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("streamed.dolmen");
    let mut partial = 0;
    for entry in &with_large_stack(|| entries("accept")) {
        let file = entry.field("file").text();
        let bytes = bytes_of(entry);
        std::fs::write(&path, &bytes).unwrap();
        let whole = Checkpoint::from_bytes(&bytes).unwrap();
        for number in 0..whole.len() {
            let right = whole.nth(number).unwrap();
            let context = format!("{file}, {:.40}", right.name());
            partial += u32::from(right.byte_len() > 0 && right.byte_len() < right.storage_len().unwrap());
            let fresh = || fresh_at(&path);
            let elements = logical_bytes(&right, 100_000).unwrap();

            let (checkpoint, mut streamed) = (fresh(), Vec::new());
            let gather = |piece: &[u8]| {
                streamed.extend_from_slice(piece);
                if streamed.len() > 100_000 {
                    Err(dolmen::Error::new(dolmen::ErrorKind::Limit, "enough"))
                } else {
                    Ok(())
                }
            };
            let result = checkpoint.nth(number).unwrap().stream(gather);
            match &elements {
                Some(elements) => assert_eq!((result.is_ok(), &streamed), (true, elements), "{context}: stream"),
                None => assert!(result.is_err(), "{context}: stream"),
            }

            let (checkpoint, mut extent) = (fresh(), Vec::new());
            let gather = |piece: &[u8]| {
                extent.extend_from_slice(piece);
                Ok(())
            };
            checkpoint.nth(number).unwrap().stream_extent(gather).unwrap();
            assert_eq!(extent, right.bytes().unwrap(), "{context}: extent");

            if let Some(elements) = &elements {
                let (checkpoint, mut read) = (fresh(), vec![0xAA; elements.len()]);
                checkpoint.nth(number).unwrap().read_into(&mut read).unwrap();
                assert_eq!(&read, elements, "{context}: read_into");
            }

            let checkpoint = fresh();
            let mut b = dolmen::Builder::new();
            b.tensor("copy", checkpoint.nth(number).unwrap()).unwrap();
            let copy = Checkpoint::from_bytes(&b.to_vec().unwrap()).unwrap();
            assert_eq!(copy.tensor("copy").unwrap().bytes().unwrap(), right.bytes().unwrap(), "{context}: copy");
        }
        let (checkpoint, mut from_disk, mut from_memory) =
            (fresh_at(&path), dolmen::Builder::new(), dolmen::Builder::new());
        from_disk.checkpoint(&checkpoint).unwrap();
        from_memory.checkpoint(&whole).unwrap();
        assert!(from_disk.to_vec().unwrap() == from_memory.to_vec().unwrap(), "{file}: copied");
    }
    assert!(partial > 10, "only {partial} tensors reach over a part of their storage");
}

fn fresh_at(path: &std::path::Path) -> Checkpoint {
    Checkpoint::open_on_demand(path).unwrap()
}
