// C calls Go and Go calls C, also from threads that Go has not made.
package main

/*
#include <pthread.h>

extern int double_it(int);

static void *body(void *number) { return (void *)(long)double_it((int)(long)number); }

static int in_thread(int number)
{
	pthread_t thread;
	void *result;
	if (pthread_create(&thread, 0, body, (void *)(long)number))
		return -1;
	pthread_join(thread, &result);
	return (int)(long)result;
}
*/
import "C"

import "fmt"

//export double_it
func double_it(number C.int) C.int { return number * 2 }

func main() {
	results := make(chan int)
	for i := 0; i < 50; i++ {
		go func(i int) { results <- int(C.in_thread(C.int(i))) }(i)
	}
	sum := 0
	for i := 0; i < 50; i++ {
		sum += <-results
	}
	fmt.Println("calls", sum)
}
