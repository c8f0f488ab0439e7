//! Smoke.
use dolmen::*;
#[test]
fn smoke() {
    let path = std::path::Path::new("/tmp/smoke.dolmen");
    let big: Vec<f32> = (0..3_000_000).map(|i| i as f32).collect();
    let mut b = Builder::new();
    b.tensor("w", (&big, [3000, 1000])).unwrap();
    b.alias("tied", "w").unwrap();
    let s = b.storage_of("w").unwrap();
    b.view("t", s, View::new(DType::F32, [1000, 3000]).unwrap().strides([1, 1000]).unwrap()).unwrap();
    b.tensor("scalar", (&[7i64], ())).unwrap();
    b.tensor("empty", (&[0f32; 0], [0, 3])).unwrap();
    b.tensor("packed", TensorData::raw(DType::U4, [3], vec![0x21, 0x03]).unwrap()).unwrap();
    b.metadata("version", "1.0");
    b.document(Value::List(vec![Value::tensor("w"), Value::from(3)]));
    b.save_with(path, &SaveOptions::new().validate(true)).unwrap();
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(bytes, b.to_vec().unwrap());
    let mut out = Vec::new();
    b.write_to(&mut out).unwrap();
    assert_eq!(bytes, out);
    let plan = b.plan().unwrap();
    assert_eq!(plan.file_len(), bytes.len() as u64);
    for ckpt in [
        Checkpoint::open(path).unwrap(),
        unsafe { Checkpoint::map(path).unwrap() },
        Checkpoint::open_on_demand(path).unwrap(),
        Checkpoint::from_bytes(&bytes).unwrap(),
    ] {
        let r = ckpt.verify().unwrap();
        assert!(r.is_valid(), "{r:?}");
        assert_eq!(ckpt.tensor("tied").unwrap().as_slice::<f32>().unwrap(), big);
        for t in ckpt.tensors() {
            let t = t.unwrap();
            assert_eq!(t.file_offset().unwrap(), plan.place(t.name()).unwrap().start);
            println!("{t:?}");
        }
        assert_eq!(ckpt.tensor("t").unwrap().to_vec::<f32>().unwrap()[1], 1000.0);
        assert_eq!(ckpt.document().unwrap().unwrap(), Value::List(vec![Value::tensor("w"), Value::from(3)]));
        let mut c = Builder::new();
        c.checkpoint(&ckpt).unwrap();
        let copy = c.to_vec().unwrap();
        Checkpoint::from_bytes(&copy).unwrap().verify().unwrap().into_result().unwrap();
    }
    println!("{:?}", Checkpoint::open(path).unwrap().tensor("x"));
}
