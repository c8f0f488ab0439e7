//! Values: the bytes of metadata or of a document, in a file that is otherwise sound.

use dolmen::{Builder, Checkpoint, DType, FileOptions, TensorData};

use super::dice::Random;
use super::open::Outcome;
use super::seal::Mutate;
use super::{open, seal};

const NAMES: [&str; 3] = ["", "a", "w"];

/// The first byte says which section it is: even ones a document, odd ones metadata. The rest are its bytes.
///
/// What is accepted is written again by the crate, and the whole file must be the one that the encoder of this project, which knows
/// nothing of the crate, made around the bytes. That is: there is one encoding of each value.
pub fn values(data: &[u8]) -> Outcome {
    let Some((&which, section)) = data.split_first() else { return Outcome::Refused("empty") };
    let document = which % 2 == 0;
    let tensor = |(number, name): (usize, &&str)| seal::Tensor {
        name: name.as_bytes().to_vec(),
        dtype: 0x10,
        bits: 8,
        shape: vec![1],
        storage: number as u32,
        ..seal::Tensor::default()
    };
    let image = seal::Image {
        alignment_log2: 6,
        block_log2: 12,
        storages: vec![vec![7]; NAMES.len()],
        tensors: NAMES.iter().enumerate().map(tensor).collect(),
        sections: vec![(if document { 7 } else { 6 }, 1, section.to_vec())],
        ..seal::Image::default()
    };
    let file = seal::encode(&image, usize::MAX).expect("no length is too great");
    let outcome = open::open_bytes(&file);
    let checkpoint = Checkpoint::from_bytes(&file).expect("the structure is sound");
    assert_eq!(outcome == Outcome::Valid, checkpoint.check_index().is_ok());

    let file_options = FileOptions::new().alignment(64).and_then(|options| options.block_len(4096)).expect("allowed");
    let mut builder = Builder::with_options(file_options);
    for name in NAMES {
        builder.tensor(name, TensorData::raw(DType::U8, [1], &[7u8][..]).expect("sound")).expect("sound");
    }
    let (metadata, value) = (checkpoint.metadata(), checkpoint.document());
    let decoded = if document { value.as_ref().map(drop) } else { metadata.as_ref().map(drop) };
    if let Err(e) = decoded {
        assert!(e.rule().is_some_and(|rule| rule.starts_with("VAL-")), "{e}");
        let found = e.rule().unwrap_or_default();
        assert_eq!(outcome, Outcome::Opened(found), "verify names another rule");
        return outcome;
    }
    assert_eq!(outcome, Outcome::Valid);
    if document {
        let value = value.expect("decoded").expect("there is one");
        assert_eq!(value, value.clone());
        builder.document(value);
    } else {
        for (key, value) in metadata.expect("decoded") {
            builder.metadata(key, value);
        }
    }
    let written = builder.to_vec().unwrap_or_else(|e| panic!("what was read cannot be written: {e}"));
    assert!(written == file, "the same value has two encodings: {:02x?}", section);
    outcome
}

/// Where each item of a section begins and ends, as far as it is made of items.
fn items(bytes: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut items = Vec::new();
    // Items that are not at their end: where each begins, and how many it still holds.
    let mut open: Vec<(usize, u64)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() && items.len() < 2000 {
        let begin = at;
        let (major, info) = (bytes[at] >> 5, bytes[at] & 31);
        let width = match info {
            0..24 => 0,
            24..28 => 1 << (info - 24),
            _ => break,
        };
        let Some(argument) = bytes.get(at + 1..at + 1 + width) else { break };
        let argument = argument.iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte));
        let argument = if width == 0 { u64::from(info) } else { argument };
        at += 1 + width;
        let holds = match major {
            2 | 3 => {
                let Some(end) = usize::try_from(argument).ok().and_then(|len| at.checked_add(len)) else { break };
                if end > bytes.len() {
                    break;
                }
                at = end;
                0
            }
            4 => argument,
            5 => argument.saturating_mul(2),
            6 => 1,
            _ => 0,
        };
        open.push((begin, holds));
        while let Some((begin, 0)) = open.last().copied() {
            items.push(begin..at);
            open.pop();
            if let Some((_, holds)) = open.last_mut() {
                *holds -= 1;
            }
        }
    }
    items
}

/// The mutation of the target `values`: an item becomes another one, made anew or from elsewhere in the section.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, mutate: &mut Mutate<'_>) -> usize {
    let mut random = Random(seed.into());
    if size == 0 || random.one_in(3) {
        return mutate(data, size, max_size);
    }
    let document = data[0].is_multiple_of(2);
    let mut section = data[1..size].to_vec();
    for _ in 0..1 + random.below(2) {
        let items = items(&section);
        let new = match items.len() {
            len if len > 1 && random.one_in(3) => section[items[random.below(len)].clone()].to_vec(),
            _ => seal::made_value(&mut random, &NAMES, document),
        };
        match items.len() {
            0 => section = new,
            len => drop(section.splice(items[random.below(len)].clone(), new)),
        }
    }
    if section.len() >= max_size.min(data.len()) {
        return mutate(data, size, max_size);
    }
    data[1..1 + section.len()].copy_from_slice(&section);
    1 + section.len()
}
