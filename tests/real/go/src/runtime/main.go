// What a program needs of the runtime: goroutines on channels, timers, collections, preemption, faults, stacks that grow.
package main

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"example.org/words"
)

func main() {
	fmt.Println("words", words.Count("a b a")["a"])
	fmt.Println("channels", sumOverChannels(1000))
	fmt.Println("timers", timers(10000))
	collect(8)
	fmt.Println("preempted", preempted())
	fmt.Println("nil", failure(func() { var p *[4096]int; p[3000] = 1 }))
	fmt.Println("division", failure(func() { zero := 0; fmt.Println(1 / zero) }))
	fmt.Println("depth", deep(100000))
}

func sumOverChannels(senders int) int {
	numbers := make(chan int)
	var group sync.WaitGroup
	for i := 0; i < senders; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			numbers <- i
		}(i)
	}
	go func() {
		group.Wait()
		close(numbers)
	}()
	sum := 0
	for number := range numbers {
		sum += number
	}
	return sum
}

func timers(count int) int {
	var mutex sync.Mutex
	var group sync.WaitGroup
	fired := 0
	for i := 0; i < count; i++ {
		group.Add(1)
		time.AfterFunc(time.Duration(i%50)*time.Millisecond, func() {
			defer group.Done()
			mutex.Lock()
			fired++
			mutex.Unlock()
		})
	}
	group.Wait()
	return fired
}

// Threads that allocate while others collect.
func collect(threads int) {
	var group sync.WaitGroup
	for i := 0; i < threads; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			var kept [][]byte
			for i := 0; i < 2000; i++ {
				kept = append(kept, make([]byte, 1000+i%5000))
				if len(kept) > 100 {
					kept = kept[50:]
				}
				if i%500 == 0 {
					runtime.GC()
				}
			}
		}()
	}
	group.Wait()
}

// A collection has to stop a loop without calls, by a signal.
func preempted() int {
	done := make(chan int)
	go func() {
		sum := 0
		for i := 0; i < 20_000_000; i++ {
			sum += i & 3
		}
		done <- sum
	}()
	runtime.GC()
	return <-done
}

func failure(run func()) (failed any) {
	defer func() { failed = recover() }()
	run()
	return nil
}

func deep(n int) int {
	var frame [64]int
	frame[n%64] = n
	if n == 0 {
		return 0
	}
	return deep(n-1) + frame[n%64] - n + 1
}
