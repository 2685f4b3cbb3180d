// A static Go program: it makes its own system calls, so nothing of libc could be interposed.
//
//	net serve          an HTTP server on port 80 that answers with its interfaces
//	net get URL        prints what URL answers, and this side's interfaces
//	net echo N         N goroutines against a listener of the same process
//	net lookup NAME SERVER
//	net preempt N      N sockets while the runtime interrupts busy goroutines (SIGURG, asynchronous preemption)
package main

import (
	"context"
	"fmt"
	"io"
	"io/ioutil"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func interfaces() string {
	all, err := net.Interfaces()
	if err != nil {
		return err.Error()
	}
	text := ""
	for _, i := range all {
		addrs, _ := i.Addrs()
		text += fmt.Sprintln(i.Index, i.Name, i.MTU, addrs)
	}
	return text
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// Loops without calls can only be stopped by a signal; the garbage collector asks for it again and again.
func preempt(n int) {
	runtime.GOMAXPROCS(4)
	urgent := make(chan os.Signal, 1)
	signal.Notify(urgent, syscall.SIGURG)
	var stop int32
	for i := 0; i < 3; i++ {
		go func() {
			for x := 0; atomic.LoadInt32(&stop) == 0; x++ {
			}
		}()
	}
	go func() {
		for atomic.LoadInt32(&stop) == 0 {
			runtime.GC()
		}
	}()
	for i := 0; i < n; i++ {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		check(err)
		c.Close()
	}
	atomic.StoreInt32(&stop, 1)
	select {
	case <-urgent:
		fmt.Println("made", n, "under SIGURG")
	default:
		fmt.Println("made", n, "undisturbed")
	}
}

func echo(n int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	var wg sync.WaitGroup
	var mu sync.Mutex
	good := 0
	for i := 0; i < n; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			c, err := net.Dial("tcp", l.Addr().String())
			check(err)
			c.SetDeadline(time.Now().Add(30 * time.Second))
			sent := make([]byte, 20000)
			go c.Write(sent)
			_, err = io.ReadFull(c, make([]byte, len(sent)))
			check(err)
			c.Close()
			mu.Lock()
			good++
			mu.Unlock()
		}()
	}
	wg.Wait()
	fmt.Println("echoes", good)
}

func main() {
	switch os.Args[1] {
	case "serve":
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "go server\n", interfaces()) })
		check(http.ListenAndServe(":80", nil))
	case "get":
		r, err := http.Get(os.Args[2])
		check(err)
		body, err := ioutil.ReadAll(r.Body)
		check(err)
		fmt.Printf("%sgo client\n%s", body, interfaces())
	case "echo":
		n, _ := strconv.Atoi(os.Args[2])
		echo(n)
	case "preempt":
		n, _ := strconv.Atoi(os.Args[2])
		preempt(n)
	case "lookup":
		server := os.Args[3]
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server+":53")
		}}
		addrs, err := r.LookupHost(context.Background(), os.Args[2])
		check(err)
		fmt.Println(addrs)
	}
}
