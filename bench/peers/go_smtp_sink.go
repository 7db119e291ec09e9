// go-smtp that takes all mail and discards it: go_smtp_sink PORT, on 127.0.0.1.
package main

import (
	"io"
	"log"
	"os"

	"github.com/emersion/go-smtp"
)

type discard struct{}

func (discard) Login(*smtp.ConnectionState, string, string) (smtp.Session, error) {
	return nil, smtp.ErrAuthUnsupported
}
func (discard) AnonymousLogin(*smtp.ConnectionState) (smtp.Session, error) { return discard{}, nil }
func (discard) Mail(string, smtp.MailOptions) error                       { return nil }
func (discard) Rcpt(string) error                                         { return nil }
func (discard) Reset()                                                    {}
func (discard) Logout() error                                             { return nil }
func (discard) Data(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func main() {
	server := smtp.NewServer(discard{})
	server.Addr = "127.0.0.1:" + os.Args[1]
	server.Domain = "go.test"
	log.Fatal(server.ListenAndServe())
}
