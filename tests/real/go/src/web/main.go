// A web server and its clients on loopback.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(answer, "hello %s", request.URL.Path)
	})
	go http.Serve(listener, nil)
	var group sync.WaitGroup
	var right atomic.Int32
	for i := 0; i < 50; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			answer, err := http.Get(fmt.Sprintf("http://%s/%d", listener.Addr(), i))
			if err != nil {
				panic(err)
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err == nil && string(body) == fmt.Sprintf("hello /%d", i) {
				right.Add(1)
			}
		}(i)
	}
	group.Wait()
	fmt.Println("answers", right.Load())
}
