//! Counts primes in threads.

fn main() {
    let limit: usize = env!("LIMIT").parse().expect("a number");
    let counts = (1..5).map(|n| std::thread::spawn(move || sieve::primes(limit * n).len()));
    let counts: Vec<usize> = counts.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect();
    println!("{counts:?}");
}

#[test]
fn the_limit_is_given() {
    assert_eq!(env!("LIMIT"), "1000");
}
