package builder

import (
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// deathNotice is how long the end of the service's process may come after that of its connection.
const deathNotice = 2 * time.Second

// failure is an error for the user: one line, and what belongs below it: what the service last wrote
// where it died, or details where there is no Ui to show them.
type failure struct {
	message     string
	lastWords   string
	serviceDied bool
}

func (f *failure) Error() string { return f.message }

// withLastWords gives the error for where there is no Ui to show them.
func (f *failure) withLastWords() error {
	if f.lastWords == "" {
		return f
	}
	return errors.New(f.message + ":\n    " + strings.ReplaceAll(f.lastWords, "\n", "\n    "))
}

// Explain makes of a failed call what the user is told, where there is no Ui.
func Explain(err error, service Service) error { return explain(err, service).withLastWords() }

// explain makes of a failed call what the user is told. Statuses of the service carry that already;
// those of the transport do not.
func explain(err error, service Service) *failure {
	state := status.Convert(err)
	message, details, _ := strings.Cut(strings.TrimSpace(state.Message()), "\n")
	switch state.Code() {
	case codes.Unavailable:
		// From a connection that broke, or a server that ends amid a call; the service itself never says
		// so. Any other status is its word and stands, even where it is gone by the time we read it.
		if died := death(service); died != nil {
			log.Printf("[ERROR] %s", err)
			return died
		}
	case codes.Unknown, codes.Internal:
		// The service maps what it foresees; these are its defects.
		return &failure{message: "the plugin has a defect: " + message + " (PACKER_LOG=1 shows more)"}
	case codes.DeadlineExceeded:
		return &failure{message: "the plugin's service does not answer"}
	case codes.Unimplemented, codes.Unauthenticated:
		return &failure{message: "the plugin's two halves do not fit together: " + message}
	}
	if message == "" {
		message = "the plugin's service gave no reason: " + state.Code().String()
	}
	return &failure{message: message, lastWords: details}
}

// death says that the service is gone, where it is.
func death(service Service) *failure {
	select {
	case <-service.Ended():
	case <-time.After(deathNotice):
		return nil
	}
	how, lastWords := service.Exit()
	return &failure{
		message:     fmt.Sprintf("the plugin's service ended unexpectedly (%s)", how),
		lastWords:   lastWords,
		serviceDied: true,
	}
}
