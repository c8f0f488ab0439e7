//! Mutations of JSON by its values, for the files that hold it.

use serde_json::{Map, Number, Value as Json};

use super::dice::Random;
use super::seal::Mutate;

/// What a file's keys and texts are made of.
pub struct Words {
    pub keys: &'static [&'static str],
    pub texts: &'static [&'static str],
}

/// A value, most often a small one.
pub fn made(random: &mut Random, words: &Words, depth: usize) -> Json {
    match random.below(if depth > 3 { 7 } else { 10 }) {
        0 => Json::Null,
        1 => Json::Bool(random.one_in(2)),
        2 | 3 => Json::Number(random.interesting().into()),
        4 => Number::from_f64(f64::from_bits(random.u64())).map_or(Json::Null, Json::Number),
        5 => Json::Number((-(random.below(1 << 20) as i64)).into()),
        6 | 7 => Json::String(random.pick(words.texts).to_owned()),
        8 => Json::Array((0..random.below(4)).map(|_| made(random, words, depth + 1)).collect()),
        _ => {
            let entries =
                (0..random.below(4)).map(|_| (random.pick(words.keys).to_owned(), made(random, words, depth + 1)));
            Json::Object(entries.collect::<Map<_, _>>())
        }
    }
}

/// Changes one value of a document, at any depth.
pub fn change(value: &mut Json, random: &mut Random, words: &Words, mutate: &mut Mutate<'_>) {
    // Down, at most as deep as documents are, and at any level with even chances.
    match value {
        Json::Object(map) if !map.is_empty() && !random.one_in(4) => {
            let at = random.below(map.len());
            let (key, child) = map.iter_mut().nth(at).expect("there are as many");
            let key = key.clone();
            match random.below(8) {
                0 => drop(map.shift_remove(&key)),
                1 => {
                    let child = child.clone();
                    map.insert(random.pick(words.keys).to_owned(), child);
                }
                2 => drop(map.insert(random.pick(words.keys).to_owned(), made(random, words, 1))),
                3 => {
                    // Under another name, at the end.
                    let child = map.shift_remove(&key).expect("it is there");
                    let mut new = key.into_bytes();
                    bytes(&mut new, mutate);
                    map.insert(String::from_utf8_lossy(&new).into_owned(), child);
                }
                _ => change(child, random, words, mutate),
            }
        }
        Json::Array(items) if !items.is_empty() && !random.one_in(4) => {
            let at = random.below(items.len());
            match random.below(6) {
                0 => drop(items.remove(at)),
                1 => items.insert(at, made(random, words, 1)),
                2 => {
                    let copy = items[at].clone();
                    items.push(copy);
                }
                _ => change(&mut items[at], random, words, mutate),
            }
        }
        Json::String(text) if !random.one_in(3) => {
            let mut new = std::mem::take(text).into_bytes();
            bytes(&mut new, mutate);
            *text = String::from_utf8_lossy(&new).into_owned();
        }
        Json::Number(number) if !random.one_in(3) => {
            let old = number.as_u64().unwrap_or(0);
            *number = match random.below(4) {
                0 => old.wrapping_add(1).into(),
                1 => old.wrapping_sub(1).into(),
                2 => old.wrapping_mul(2).into(),
                _ => random.interesting().into(),
            };
        }
        Json::Object(map) if random.one_in(2) => {
            map.insert(random.pick(words.keys).to_owned(), made(random, words, 1));
        }
        other => *other = made(random, words, 0),
    }
}

fn bytes(bytes: &mut Vec<u8>, mutate: &mut Mutate<'_>) {
    let len = bytes.len();
    bytes.resize(len + 16, 0);
    let new = mutate(bytes, len, len + 16);
    bytes.truncate(new);
}

/// Text of a document: as any writer would have it.
pub fn text(value: &Json, random: &mut Random) -> Vec<u8> {
    let text = if random.one_in(3) { format!("{value:#}") } else { value.to_string() };
    let mut text = text.into_bytes();
    if random.one_in(12) && !text.is_empty() {
        // An entry that is there twice, which a tree cannot hold.
        let commas: Vec<usize> = (0..text.len()).filter(|&at| text[at] == b',').collect();
        if commas.len() > 1 {
            let at = random.below(commas.len() - 1);
            let piece = text[commas[at]..commas[at + 1]].to_vec();
            text.splice(commas[at]..commas[at], piece);
        }
    }
    text
}

/// Replaces an input, if the new one fits.
pub fn put(data: &mut [u8], new: &[u8], max_size: usize) -> Option<usize> {
    let fits = new.len() <= max_size.min(data.len());
    fits.then(|| {
        data[..new.len()].copy_from_slice(new);
        new.len()
    })
}

/// A mutation of a file that is one JSON document.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    words: &Words,
    mutate: &mut Mutate<'_>,
) -> usize {
    let mut random = Random(seed.into());
    let parsed = if random.one_in(8) { None } else { serde_json::from_slice::<Json>(&data[..size]).ok() };
    let new = parsed.and_then(|mut document| {
        for _ in 0..1 + random.below(3) {
            change(&mut document, &mut random, words, mutate);
        }
        put(data, &text(&document, &mut random), max_size)
    });
    new.unwrap_or_else(|| mutate(data, size, max_size))
}
