! The application's own fork point, in Fortran; pspawn_point.h says what it is.
!
! Compile this file with the program, or include it at the top of one source file, free or fixed form:
!
!     include 'pspawn_point.f90'
!     program app
!       use pspawn, only: pspawn_point
!       ...                               heavy, and the same in every rank
!       call pspawn_point()
!       call mpi_init(ierror)
!
! call pspawn_point(forked) sets the logical: true in a rank that was forked here, false in every other case.
! Nothing has to be linked.
      module pspawn
        implicit none
        private
        public :: pspawn_point
      contains
        subroutine pspawn_point(forked)
          logical, intent(out), optional :: forked
          character(len=*), parameter :: name = 'PSPAWN_POINT'
          character(len=32) :: here, again
          integer :: status
!         answered by pspawn's object in a proxy, see pspawn_point.h
          if (present(forked)) forked = .false.
          call get_environment_variable(name, here, status=status)
          if (status /= 0) return
!         a variable of that name says the same twice
          call get_environment_variable(name, again, status=status)
          if (present(forked)) forked = status /= 0 .or. here /= again
        end subroutine pspawn_point
      end module pspawn
