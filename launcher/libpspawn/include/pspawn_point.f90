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
          integer :: status
!         answered by pspawn's object in a proxy, see pspawn_point.h
          call get_environment_variable('PSPAWN_POINT', status=status)
          if (present(forked)) forked = status == 0
        end subroutine pspawn_point
      end module pspawn
