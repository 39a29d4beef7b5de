package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// dropPrivileges gives up every capability of every thread, for good: the device
// is made, the port bound, and what is left to do takes none. A process of root
// remains the owner of root's files, and no more.
func dropPrivileges() error {
	for c := cap.Value(0); c < cap.MaxBits(); c++ {
		// Beyond these a program that is executed could get them back; taking them
		// out of the bounding set is itself a privilege, which a service need not have.
		if err := cap.DropBound(c); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("take %v out of the bounding set: %w", c, err)
		}
	}
	if err := cap.ResetAmbient(); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	if err := cap.NewSet().SetProc(); err != nil {
		return fmt.Errorf("give up all capabilities: %w", err)
	}
	return nil
}
