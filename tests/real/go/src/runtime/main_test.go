package main

import "testing"

func TestChannels(t *testing.T) {
	if sum := sumOverChannels(100); sum != 4950 {
		t.Fatal(sum)
	}
}

func TestFailure(t *testing.T) {
	if failure(func() { var p *int; *p = 1 }) == nil {
		t.Fatal("a write through a null pointer went on")
	}
}

func BenchmarkChannels(b *testing.B) {
	for i := 0; i < b.N; i++ {
		sumOverChannels(10)
	}
}
