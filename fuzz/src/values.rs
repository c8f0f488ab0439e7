//! Values: the bytes of metadata or of a document, in a file that is otherwise sound.

use dolmen::{Builder, Checkpoint, DType, FileOptions, TensorData};

use super::open::Outcome;
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
