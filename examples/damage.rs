//! What damage looks like: flips a bit of a checkpoint in memory and verifies it.
//!
//! `cargo run --example damage`

use dolmen::{Builder, Checkpoint};

fn main() -> dolmen::Result<()> {
    let weights: Vec<f32> = (0..600_000).map(|i| i as f32).collect();
    let mut b = Builder::new();
    b.tensor("good", (&weights, [600, 1000]))?.tensor("hit", (&weights, [600, 1000]))?;
    let mut bytes = b.to_vec()?;
    let place = b.plan()?.place("hit").unwrap_or_default();
    bytes[place.start as usize + 1_500_000] ^= 0x10;

    let ckpt = Checkpoint::from_bytes(&bytes)?;
    println!("good: {} elements", ckpt.tensor("good")?.as_slice::<f32>()?.len());
    if let Err(e) = ckpt.tensor("hit")?.as_slice::<f32>() {
        println!("hit: {e}");
    }
    // The rows in other blocks are still there.
    println!("rows 0..200 of hit: {} elements", ckpt.tensor("hit")?.rows(0..200)?.as_slice::<f32>()?.len());
    for tensor in ckpt.verify()?.damaged {
        println!("{} is damaged in {:?}", tensor.name, tensor.bad_blocks);
    }
    Ok(())
}
