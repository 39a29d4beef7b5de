package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hold opens and locks the undo file and returns what a killed instance wrote
// there, nil if there was none.
func (ch *Changes) hold() (*undo, error) {
	for {
		f, err := os.OpenFile(ch.file, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("undo file: %w", err)
		}
		current, err := lock(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if !current { // its owner has just stopped, or is writing it
			f.Close()
			continue
		}
		u, err := decode(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		ch.held = f
		return u, nil
	}
}

// lock takes the lock of an undo file, which the kernel gives back with the
// last descriptor, and says whether the file still stands at its path.
func lock(f *os.File) (current bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, fmt.Errorf("undo file %s: another nat64d with the same control_socket is running; "+
			"stop it or change control_socket: %w", f.Name(), err)
	}
	if err != nil {
		return false, fmt.Errorf("lock undo file %s: %w", f.Name(), err)
	}
	mine, err := f.Stat()
	if err != nil {
		return false, fmt.Errorf("undo file: %w", err)
	}
	there, err := os.Stat(f.Name())
	return err == nil && os.SameFile(mine, there), nil
}

// decode reads a locked undo file; one that was just created is empty.
func decode(f *os.File) (*undo, error) {
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("undo file: %w", err)
	}
	if len(data) == 0 {
		return nil, nil
	}
	var u undo
	if err := json.Unmarshal(data, &u); err != nil {
		return nil, fmt.Errorf("undo file %s of an earlier instance cannot be read (remove it when its addresses are gone): %w", f.Name(), err)
	}
	return &u, nil
}

// save writes the file so that it is whole, and locked, at every moment.
func (ch *Changes) save() error {
	data, err := json.Marshal(&ch.undo)
	if err != nil {
		return fmt.Errorf("undo file: %w", err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(ch.file), ".undo-*")
	if err != nil {
		return fmt.Errorf("undo file: %w", err)
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = unix.Flock(int(tmp.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = os.Rename(tmp.Name(), ch.file)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("undo file %s: %w", tmp.Name(), err), tmp.Close(), os.Remove(tmp.Name()))
	}
	old := ch.held
	ch.held = tmp
	if err := old.Close(); err != nil {
		return fmt.Errorf("undo file: %w", err)
	}
	return nil
}
